"""Promise 4, of a subscriber whose channels change while it runs."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest

from fastapi_broadcaster import (
    BackendUnavailableError,
    Broadcaster,
    Event,
    Subscriber,
    UnsupportedError,
)
from tests.backends import BackendCase
from tests.brokers import Broker
from tests.conformance.tools import PATIENCE, Reader, back, lost, publish_all, take_until, until
from tests.conftest import Refusal

TEN = [str(number) for number in range(10)]


async def told(subscriber: Subscriber[str], last: str) -> dict[str, list[str]]:
    """Read to a message: what was told of each channel; a gap fails."""
    found: dict[str, list[str]] = defaultdict(list)
    async with asyncio.timeout(PATIENCE):
        async for one in subscriber.stream():
            assert isinstance(one, Event), one
            found[one.channel].append(one.message)
            if one.message == last:
                break
    return dict(found)


async def test_an_added_channel_is_live_when_it_returns(
    broadcaster: Broadcaster, name: str
) -> None:
    first, second = f"{name}.1", f"{name}.2"
    async with broadcaster.subscribe(first) as subscriber:
        await broadcaster.publish(second, "too early")
        await subscriber.add(second)
        await subscriber.add(broadcaster.channel(second))  # changes nothing
        assert subscriber.channels == (first, second)
        await publish_all(broadcaster, second, TEN)
        await publish_all(broadcaster, first, [*TEN, "end"])
        found = await told(subscriber, "end")
        while len(found[second]) < len(TEN):
            found[second].append((await subscriber.get()).message)
        assert found == {first: [*TEN, "end"], second: TEN}


async def test_a_removed_channel_is_silent(broadcaster: Broadcaster, name: str) -> None:
    first, second = f"{name}.1", f"{name}.2"
    async with broadcaster.subscribe([first, second]) as subscriber:
        await broadcaster.publish(first, "never read")
        await broadcaster.publish(second, "waits")
        await until(lambda: subscriber.inbox.waiting == 2)
        subscriber.remove(first)
        subscriber.remove(first)  # changes nothing
        await broadcaster.publish(first, "not heard")
        await broadcaster.publish(second, "end")
        assert await told(subscriber, "end") == {second: ["waits", "end"]}
        subscriber.remove(second)
        assert subscriber.channels == ()
        await subscriber.add(first)
        await broadcaster.publish(second, "not heard")
        await broadcaster.publish(first, "anew")
        assert await told(subscriber, "anew") == {first: ["anew"]}


@pytest.mark.parametrize("buffer_size", [4, 1_024])
async def test_added_with_history(
    refused: Refusal, broadcaster: Broadcaster, name: str, buffer_size: int
) -> None:
    """More than the buffer holds, while both channels are written to."""
    first, second = f"{name}.1", f"{name}.2"
    if refused.log(broadcaster, first, history=1):
        async with broadcaster.subscribe(first) as subscriber:
            with pytest.raises(UnsupportedError, match="history"):
                await subscriber.add(second, history=1)
            assert subscriber.channels == (first,)
        return
    await publish_all(broadcaster, second, ["old", *TEN])
    async with broadcaster.subscribe(first, buffer_size=buffer_size) as subscriber:
        writers = [
            asyncio.create_task(publish_all(broadcaster, first, TEN)),
            asyncio.create_task(publish_all(broadcaster, second, [f"live {one}" for one in TEN])),
        ]
        await subscriber.add(second, history=30)
        await asyncio.gather(*writers)
        await publish_all(broadcaster, first, ["end"])
        found = await told(subscriber, "end")
        wanted = ["old", *TEN, *(f"live {one}" for one in TEN)]
        while len(found[second]) < len(wanted):
            found[second].append((await subscriber.get()).message)
        assert found == {first: [*TEN, "end"], second: wanted}


async def test_one_cursor_for_what_was_added(
    refused: Refusal, broadcaster: Broadcaster, name: str
) -> None:
    if refused.log(broadcaster, name, history=1):
        return
    first, second = f"{name}.1", f"{name}.2"
    async with broadcaster.subscribe(first) as subscriber:
        await publish_all(broadcaster, first, ["a"])
        await told(subscriber, "a")
        await subscriber.add(second)
        await publish_all(broadcaster, second, ["b", "c"])
        await told(subscriber, "b")
        cursor = subscriber.cursor
    assert cursor is not None
    await publish_all(broadcaster, first, ["d"])
    async with broadcaster.subscribe([first, second], after=cursor) as resumed:
        await publish_all(broadcaster, second, ["end"])
        assert await told(resumed, "end") == {first: ["d"], second: ["c", "end"]}
        resumed.remove(second)
        await publish_all(broadcaster, first, ["e"])
        await told(resumed, "e")
        cursor = resumed.cursor
    await publish_all(broadcaster, first, ["f"])
    async with broadcaster.subscribe(first, after=cursor) as alone:
        assert await told(alone, "f") == {first: ["f"]}


async def test_channels_change_under_a_flood(broadcaster: Broadcaster, name: str) -> None:
    """Of each stay everything between its beginning and its end is told, once, in order."""
    names = [f"{name}.{number}" for number in range(4)]
    sent = dict.fromkeys(names, 0)
    running = True

    async def write(channel: str) -> None:
        while running:
            await broadcaster.publish(channel, str(sent[channel] + 1))
            sent[channel] += 1
            await asyncio.sleep(0)

    async with broadcaster.subscribe(f"{name}.base", buffer_size=10_000) as subscriber:
        reader = Reader(subscriber)
        writers = [asyncio.create_task(write(channel)) for channel in names]
        try:
            for turn in range(20):
                channel = names[turn % len(names)]
                await subscriber.add(channel)
                first, begin = sent[channel] + 2, len(reader.items)
                await until(lambda: sent[channel] >= first + 5)  # noqa: B023
                last = sent[channel]
                await until(lambda: heard(reader, channel, begin)[-1:] >= [last])  # noqa: B023
                subscriber.remove(channel)
                found = heard(reader, channel, begin)
                assert set(range(first, last + 1)) <= set(found)
                assert found == list(range(found[0], found[-1] + 1))
        finally:
            running = False
            await asyncio.gather(*writers)
            reader.task.cancel()
        assert not reader.gaps


def heard(reader: Reader, channel: str, begin: int) -> list[int]:
    return [
        int(one.message)
        for one in reader.items[begin:]
        if isinstance(one, Event) and one.channel == channel
    ]


async def test_what_cannot_be(refused: Refusal, broadcaster: Broadcaster, name: str) -> None:
    if refused.pattern(broadcaster, f"{name}.*"):
        return
    async with broadcaster.subscribe(pattern=f"{name}.*") as subscriber:
        with pytest.raises(TypeError, match="pattern"):
            await subscriber.add(name)


async def test_added_in_an_outage(own_broker: Broker, case: BackendCase) -> None:
    """It raises in time, the subscriber goes on, and a later one comes to pass."""
    async with (
        own_broker.broadcaster(subscribe_timeout=0.5) as broadcaster,
        broadcaster.subscribe("room.1") as subscriber,
    ):
        await own_broker.kill()
        await lost(broadcaster)
        with pytest.raises(BackendUnavailableError):
            await subscriber.add("room.2")
        assert subscriber.channels == ("room.1",)
        await own_broker.restart()
        await back(broadcaster)
        await until(lambda: added(subscriber, "room.2"))
        for channel in ("room.1", "room.2"):
            await broadcaster.publish(channel, channel)
            assert channel not in await take_until(subscriber, channel)


async def added(subscriber: Subscriber[str], channel: str) -> bool:
    try:
        await subscriber.add(channel)
    except BackendUnavailableError:
        return False
    return True


async def test_nothing_is_left_of_those_that_came_and_went(own_broker: Broker) -> None:
    async with own_broker.broadcaster(linger=0.05) as broadcaster:
        engine = broadcaster._engine
        assert engine is not None
        async with broadcaster.subscribe("room") as subscriber:
            for turn in range(3):
                names = [f"room.{turn}.{number}" for number in range(10)]
                adding = [asyncio.create_task(subscriber.add(one)) for one in names]
                adding[turn].cancel()
                await asyncio.wait(adding)
                for one in subscriber.channels[1:]:
                    subscriber.remove(one)
            await until(lambda: {*engine.hub.channels} == {"room"})
            await until(lambda: only_room(own_broker))
        await until(lambda: not engine.hub.channels)


async def only_room(broker: Broker) -> bool:
    return await broker.subscriptions() == {"room"}
