"""Promise 4: history, then live, seamless. A backend without a log refuses all of it."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fastapi_broadcaster import Broadcaster, Gap
from tests.backends import BackendCase
from tests.brokers import Broker
from tests.conformance.tools import (
    PATIENCE,
    publish_all,
    published,
    reading,
    take,
    take_until,
)
from tests.conftest import Refusal

BEGINNINGS: list[dict[str, Any]] = [{"history": 5}, {"history": "all"}, {"latest": True}]
TEN = [str(number) for number in range(10)]


async def test_newest_n_then_live(refused: Refusal, broadcaster: Broadcaster, name: str) -> None:
    if refused.log(broadcaster, name, history=3):
        return
    await publish_all(broadcaster, name, TEN)
    async with broadcaster.subscribe(name, history=3) as subscriber:
        await publish_all(broadcaster, name, ["live", "end"])
        assert await take_until(subscriber, "end") == ["7", "8", "9", "live"]


@pytest.mark.parametrize("history", [0, 1, 10, 25, 1_000_000])
async def test_as_many_as_there_are(
    refused: Refusal, broadcaster: Broadcaster, name: str, history: int
) -> None:
    if refused.log(broadcaster, name, history=history):
        return
    await publish_all(broadcaster, name, TEN)
    async with broadcaster.subscribe(name, history=history, buffer_size=4) as subscriber:
        await broadcaster.publish(name, "end")
        wanted = TEN[-history:] if history else []
        assert await take_until(subscriber, "end") == wanted


async def test_all(refused: Refusal, broadcaster: Broadcaster, name: str) -> None:
    if refused.log(broadcaster, name, history="all"):
        return
    await publish_all(broadcaster, name, TEN)
    async with broadcaster.subscribe(name, history="all", buffer_size=3) as subscriber:
        await broadcaster.publish(name, "end")
        assert await take_until(subscriber, "end") == TEN


async def test_an_empty_channel(refused: Refusal, broadcaster: Broadcaster, name: str) -> None:
    if refused.log(broadcaster, name, history="all"):
        return
    for options in BEGINNINGS:
        async with broadcaster.subscribe(name, **options) as subscriber:
            await broadcaster.publish(name, "end")
            assert await take_until(subscriber, "end") == []
        name += "x"


async def test_a_timedelta(refused: Refusal, broadcaster: Broadcaster, name: str) -> None:
    if refused.log(broadcaster, name, history=timedelta(seconds=5)):
        return
    await publish_all(broadcaster, name, ["old 1", "old 2"])
    await asyncio.sleep(0.1)
    border = datetime.now(UTC)
    await asyncio.sleep(1.0)  # what makes them old
    await publish_all(broadcaster, name, [*TEN, "end"])

    async def behind_the_border() -> list[object] | None:
        """What has come since; None if that was asked so slowly that the border has moved far."""
        age = datetime.now(UTC) - border
        async with broadcaster.subscribe(name, history=age) as subscriber:
            late = datetime.now(UTC) - border - age > timedelta(seconds=0.9)
            return None if late else await take_until(subscriber, "end")

    found = None
    for _ in range(10):
        found = found or await behind_the_border()
    assert found == TEN
    async with broadcaster.subscribe(name, history=timedelta(hours=1)) as subscriber:
        assert await take(subscriber, 2) == ["old 1", "old 2"]


async def test_latest_then_live(refused: Refusal, broadcaster: Broadcaster, name: str) -> None:
    if refused.log(broadcaster, name, latest=True):
        return
    await publish_all(broadcaster, name, TEN)
    async with broadcaster.subscribe(name, latest=True) as subscriber:
        await publish_all(broadcaster, name, ["live", "end"])
        assert await take_until(subscriber, "end") == ["9", "live"]


async def test_after_an_id(
    refused: Refusal, case: BackendCase, broadcaster: Broadcaster, name: str
) -> None:
    """From each of the events, and from each of the receipts."""
    if refused.log(broadcaster, name, history=1):
        return
    receipts = [(await broadcaster.publish(name, message)).id for message in TEN]
    async with broadcaster.subscribe(name, history="all") as subscriber:
        ids = [(await subscriber.get()).id for _ in TEN]
    assert receipts == (ids if case.receipts else [None] * len(TEN))
    await broadcaster.publish(name, "end")
    for at, id in enumerate(ids):
        async with broadcaster.subscribe(name, after=id, buffer_size=3) as subscriber:
            assert await take_until(subscriber, "end") == TEN[at + 1 :]


async def test_an_id_wins_over_history(
    refused: Refusal, broadcaster: Broadcaster, name: str
) -> None:
    if refused.log(broadcaster, name, history=1):
        return
    ids = [await published(broadcaster, name, message) for message in TEN]
    async with broadcaster.subscribe(name, after=ids[7], history=5) as subscriber:
        await broadcaster.publish(name, "end")
        assert await take_until(subscriber, "end") == ["8", "9"]


@pytest.mark.parametrize("id", ["nonsense", "~end", "0-0", "9" * 400, "ü\n", "~m.e30"])
async def test_an_unknown_id(
    case: BackendCase, broadcaster: Broadcaster, name: str, id: str
) -> None:
    """A gap "reset", then as if none had been sent."""
    await publish_all(broadcaster, name, TEN)
    options: dict[str, Any] = {"history": 2} if case.log else {}
    async with broadcaster.subscribe(name, after=id, **options) as subscriber:
        await broadcaster.publish(name, "end")
        wanted = ["8", "9"] if case.log else []
        assert await take_until(subscriber, "end") == [Gap(name, "reset"), *wanted]
        assert subscriber.gaps == 1


async def test_history_as_of_the_subscribe(
    refused: Refusal, broadcaster: Broadcaster, name: str
) -> None:
    """It is read before subscribe yields: what comes later is live, and not counted."""
    if refused.log(broadcaster, name, history=2):
        return
    await publish_all(broadcaster, name, TEN)
    async with broadcaster.subscribe(name, history=2) as subscriber:
        await publish_all(broadcaster, name, [f"live {number}" for number in range(50)])
        wanted = ["8", "9", *(f"live {number}" for number in range(50))]
        assert await take(subscriber, 52) == wanted


@pytest.mark.parametrize("buffer_size", [1, 2, 7, 100])
async def test_no_seam_while_others_publish(
    refused: Refusal, broadcaster: Broadcaster, name: str, buffer_size: int
) -> None:
    """Readers who join at any time with history="all" have every message once, in order."""
    if refused.log(broadcaster, name, history="all"):
        return
    messages = [str(number) for number in range(300)]
    publishing = asyncio.create_task(publish_all(broadcaster, name, [*messages, "end"]))

    async def join(turn: int) -> list[object]:
        for _ in range(turn * 7):
            await asyncio.sleep(0)
        async with broadcaster.subscribe(
            name, history="all", buffer_size=buffer_size
        ) as subscriber:
            return await take_until(subscriber, "end")

    found = await asyncio.gather(*(join(turn) for turn in range(10)))
    await publishing
    assert all(one == messages for one in found)


@pytest.mark.parametrize("seed", range(5))
async def test_several_channels_one_cursor(
    refused: Refusal, broadcaster: Broadcaster, name: str, seed: int
) -> None:
    """Whoever stops anywhere and comes back with `cursor` misses nothing and repeats nothing."""
    if refused.log(broadcaster, name, history="all"):
        return
    channels = [f"{name}.{letter}" for letter in "abc"]
    sent = [(channels[number % 3], str(number)) for number in range(30)]
    waiting = list(sent)
    found: list[tuple[str, str]] = []
    options: dict[str, Any] = {"history": "all"}
    dice = random.Random(seed)
    while len(found) < len(sent):
        for channel, message in waiting[:5]:
            await broadcaster.publish(channel, message)
        del waiting[:5]
        async with broadcaster.subscribe(channels, buffer_size=6, **options) as subscriber:
            for _ in range(min(dice.randint(1, 3), len(sent) - len(waiting) - len(found))):
                event = await asyncio.wait_for(subscriber.get(), PATIENCE)
                found.append((event.channel, event.message))
                assert event.id == subscriber.cursor
            options = {"after": subscriber.cursor, "history": "all"}
            if subscriber.cursor is None:  # not yet: history waits of which nothing was handed on
                found, options = [], {"history": "all"}
    for channel in channels:
        assert [one for one in found if one[0] == channel] == [
            one for one in sent if one[0] == channel
        ]


async def test_pages_of_several_channels_are_merged(
    refused: Refusal, broadcaster: Broadcaster, name: str
) -> None:
    if refused.log(broadcaster, name, history="all"):
        return
    channels = [f"{name}.{letter}" for letter in "abc"]
    for number in range(30):
        await broadcaster.publish(channels[number % 3], str(number))
        await asyncio.sleep(0.002)  # positions of two channels may be told apart by their time only
    async with broadcaster.subscribe(channels, history="all") as subscriber:
        assert await take(subscriber, 30) == [str(number) for number in range(30)]


async def test_a_cancelled_get_loses_nothing(broadcaster: Broadcaster, name: str) -> None:
    async with broadcaster.subscribe(name) as subscriber:

        async def publish() -> None:
            for message in [*(str(number) for number in range(200)), "end"]:
                await broadcaster.publish(name, message)
                await asyncio.sleep(0.001)

        publishing = asyncio.create_task(publish())
        found: list[str] = []
        cancelled = 0
        while not found or found[-1] != "end":
            getting = asyncio.create_task(subscriber.get())
            for _ in range(cancelled % 4):
                await asyncio.sleep(0)
            if cancelled < 100 and not getting.done():
                getting.cancel()
            await asyncio.wait([getting], timeout=PATIENCE)
            if getting.cancelled():
                cancelled += 1
            else:
                found.append(getting.result().message)
        await publishing
    assert cancelled > 10
    assert found[:-1] == [str(number) for number in range(200)]


async def test_a_get_cancelled_in_history_loses_nothing(
    refused: Refusal, broadcaster: Broadcaster, name: str
) -> None:
    if refused.log(broadcaster, name, history="all"):
        return
    await publish_all(broadcaster, name, [*TEN, *TEN, "end"])
    async with broadcaster.subscribe(name, history="all", buffer_size=2) as subscriber:
        found: list[str] = []
        turn = 0
        while not found or found[-1] != "end":
            turn += 1
            getting = asyncio.create_task(subscriber.get())
            for _ in range(turn % 6):
                await asyncio.sleep(0)
            if not getting.done() and turn % 3:
                getting.cancel()
            await asyncio.wait([getting], timeout=PATIENCE)
            if not getting.cancelled():
                found.append(getting.result().message)
    assert found == [*TEN, *TEN, "end"]


async def test_history_waits_in_an_outage(refused: Refusal, own_broker: Broker, name: str) -> None:
    """A reader that pages through the log goes on behind the outage."""
    async with own_broker.broadcaster(log_size=1_000, publish_timeout=60) as broadcaster:
        if refused.log(broadcaster, name, history="all"):
            return
        await publish_all(broadcaster, name, [str(number) for number in range(200)])
        async with reading(broadcaster.subscribe(name, history="all", buffer_size=5)) as reader:
            await own_broker.kill()
            await asyncio.sleep(0.1)
            await own_broker.restart()
            await broadcaster.publish(name, "end")
            await reader.until("end")
    assert reader.gaps == []
    assert reader.messages == [*(str(number) for number in range(200)), "end"]
