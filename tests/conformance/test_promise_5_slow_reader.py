"""Promise 5: a slow reader costs bounded memory and hurts nobody else."""

from __future__ import annotations

import asyncio
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest

from fastapi_broadcaster import Broadcaster, Gap, SlowSubscriberError
from tests.backends import BackendCase
from tests.brokers import Broker
from tests.conformance.tools import PATIENCE, publish_all, reading, take, take_items, take_until
from tests.conftest import Refusal

HUNDRED = [str(number) for number in range(100)]


@pytest.mark.parametrize(
    ("overflow", "wanted"),
    [
        ("drop_oldest", [Gap("", "slow", 95), *HUNDRED[95:]]),
        ("drop_newest", [*HUNDRED[:5], Gap("", "slow", 95)]),
        ("latest", [Gap("", "slow", 99), "99"]),
        ("catch_up", HUNDRED),
    ],
)
async def test_policies(
    refused: Refusal, broadcaster: Broadcaster, name: str, overflow: str, wanted: list[object]
) -> None:
    options: dict[str, Any] = {"overflow": overflow, "buffer_size": 5}
    if overflow == "catch_up" and refused.log(broadcaster, name, **options):
        return
    async with (
        broadcaster.subscribe(name, **options) as slow,
        reading(broadcaster.subscribe(name)) as quick,
    ):
        await publish_all(broadcaster, name, HUNDRED)
        await quick.until("99")
        items = await take_items(slow, len(wanted))
        await broadcaster.publish(name, "end")
        assert await take_until(slow, "end") == []
    found = [item if isinstance(item, Gap) else item.message for item in items]
    assert found == [replace(one, channel=name) if isinstance(one, Gap) else one for one in wanted]
    assert quick.messages[:100] == HUNDRED
    assert quick.gaps == []


async def test_close(broadcaster: Broadcaster, name: str) -> None:
    async with (
        broadcaster.subscribe(name, overflow="close", buffer_size=5) as slow,
        reading(broadcaster.subscribe(name)) as quick,
    ):
        await publish_all(broadcaster, name, HUNDRED)
        await quick.until("99")
        assert await take(slow, 5) == HUNDRED[:5]
        with pytest.raises(SlowSubscriberError):
            await slow.get()
        await broadcaster.publish(name, "end")
        await quick.until("end")
    assert quick.gaps == []


async def test_the_default(case: BackendCase, broadcaster: Broadcaster, name: str) -> None:
    """`catch_up` on a log, `drop_oldest` elsewhere."""
    async with (
        broadcaster.subscribe(name, buffer_size=5) as slow,
        reading(broadcaster.subscribe(name)) as quick,
    ):
        await publish_all(broadcaster, name, [*HUNDRED, "end"])
        await quick.until("end")
        wanted = HUNDRED if case.log else [Gap(name, "slow", 96), *HUNDRED[96:]]
        assert await take_until(slow, "end") == wanted


async def test_the_default_of_patterns(
    refused: Refusal, broadcaster: Broadcaster, name: str
) -> None:
    if refused.pattern(broadcaster, f"{name}*"):
        return
    async with (
        broadcaster.subscribe(pattern=f"{name}*", buffer_size=5) as slow,
        reading(broadcaster.subscribe(name)) as quick,
    ):
        await publish_all(broadcaster, name, [*HUNDRED, "end"])
        await quick.until("end")
        assert await take_until(slow, "end") == [Gap(f"{name}*", "slow", 96), *HUNDRED[96:]]


async def test_catch_up_loses_nothing_over_10_000_messages(
    refused: Refusal, own_broker: Broker, name: str
) -> None:
    messages = [str(number) for number in range(10_000)]
    async with own_broker.broadcaster(log_size=20_000) as broadcaster:
        if refused.log(broadcaster, name, overflow="catch_up"):
            return
        async with broadcaster.subscribe(name, buffer_size=64) as slow:
            publishing = asyncio.create_task(publish_all(broadcaster, name, messages))
            found = []
            while len(found) < 10_000:
                found += await take(slow, 1)
                if len(found) % 500 == 0:
                    await asyncio.sleep(0.02)  # what makes it slow
            await publishing
            await broadcaster.publish(name, "end")
            assert await take_until(slow, "end") == []
            assert slow.gaps == 0
    assert found == messages


async def test_catch_up_that_the_log_outran_is_told(
    refused: Refusal, case: BackendCase, own_broker: Broker, name: str
) -> None:
    """Received and missed make up all that was published."""
    async with own_broker.broadcaster(log_size=100) as broadcaster:
        if refused.log(broadcaster, name, overflow="catch_up"):
            return
        async with broadcaster.subscribe(name, buffer_size=10) as slow:
            await publish_all(broadcaster, name, [str(number) for number in range(1_000)])
            await broadcaster.publish(name, "end")
            found = await take_until(slow, "end")
    gaps = [item for item in found if isinstance(item, Gap)]
    assert {gap.reason for gap in gaps} == {"expired"}
    received = [int(item) for item in found if not isinstance(item, Gap)]
    assert received == sorted(set(received))
    if case.exact_missed:
        assert sum(gap.missed or 0 for gap in gaps) == 1_000 - len(received)
    if not case.processes:  # a server that trims by itself may still do so while it is read
        assert len(gaps) == 1


async def test_a_slow_reader_does_not_disturb_another(broadcaster: Broadcaster, name: str) -> None:
    async with (
        broadcaster.subscribe(name, buffer_size=1, overflow="drop_oldest"),
        broadcaster.subscribe(name, buffer_size=1),
        broadcaster.subscribe(name, buffer_size=1, overflow="close"),
        broadcaster.subscribe(name, buffer_size=1, overflow="latest"),
        reading(broadcaster.subscribe(name)) as quick,
    ):
        for turn in range(20):
            await publish_all(broadcaster, name, [f"{turn} {one}" for one in HUNDRED])
        await broadcaster.publish(name, "end")
        await quick.until("end")
    assert quick.gaps == []
    assert len(quick.messages) == 2_001


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "latest", "close", None])
async def test_memory_is_bounded(own_broker: Broker, name: str, overflow: str | None) -> None:
    """20 MB pass readers that never read, with buffers of 16 messages."""
    async with own_broker.broadcaster(log_size=16) as broadcaster:
        options: dict[str, Any] = {"buffer_size": 16, "overflow": overflow}
        async with (
            broadcaster.subscribe(name, **options),
            broadcaster.subscribe(name, **options),
            reading(broadcaster.subscribe(name)) as quick,
        ):
            await broadcaster.publish(name, "begin")
            await quick.until("begin")
            tracemalloc.start()
            try:
                before, _ = tracemalloc.get_traced_memory()
                for number in range(2_000):
                    await broadcaster.publish(name, str(number) * 2_500)
                    quick.items.clear()
                await broadcaster.publish(name, "end")
                await quick.until("end")
                quick.items.clear()  # what came behind the last publish
                after, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
    assert after - before < 4_000_000


async def test_close_ends_only_itself(broadcaster: Broadcaster, name: str) -> None:
    """Also when the slow reader waits for nothing: it learns why when it reads."""
    async with (
        broadcaster.subscribe(name, overflow="close", buffer_size=1) as slow,
        broadcaster.subscribe(name) as other,
    ):
        await publish_all(broadcaster, name, HUNDRED)
        assert await take(slow, 1) == ["0"]
        for _ in range(2):
            with pytest.raises(SlowSubscriberError):
                await asyncio.wait_for(slow.get(), PATIENCE)
        assert await take(other, len(HUNDRED)) == HUNDRED
    async with broadcaster.subscribe(name) as subscriber:
        await broadcaster.publish(name, "hello")
        assert await take_until(subscriber, "hello") == []
