"""What slow readers were told that was not so, and what they cost."""

from __future__ import annotations

import time
from typing import Literal

import pytest

from fastapi_broadcaster import Broadcaster, Event, Gap, MemoryBackend
from tests.conformance.tools import take_items


class Clock:
    """What `memory://` takes for the time; nothing waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return time.time()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("fastapi_broadcaster.backends.memory.time", clock)
    return clock


async def publish(broadcaster: Broadcaster, channel: str, count: int) -> None:
    for number in range(count):
        await broadcaster.publish(channel, str(number))


async def test_missed_is_exact_though_the_channel_was_idle(clock: Clock) -> None:
    async with Broadcaster(backend=MemoryBackend(history=10, ttl=60)) as broadcaster:
        await publish(broadcaster, "c", 50)
        async with broadcaster.subscribe("c", buffer_size=4) as subscriber:
            clock.now += 61
            await broadcaster.publish("other", "x")
            await publish(broadcaster, "c", 30)
            gap, event = await take_items(subscriber, 2)
    assert gap == Gap("c", "expired", 20)
    assert isinstance(event, Event)
    assert event.message == "20"


async def test_no_gap_on_a_channel_that_nobody_had_published_to(clock: Clock) -> None:
    async with Broadcaster(backend=MemoryBackend(history=100, ttl=60)) as broadcaster:
        async with broadcaster.subscribe("quiet") as subscriber:
            cursor = subscriber.cursor
        await broadcaster.publish("other", "x")
        clock.now += 61
        await broadcaster.publish("another", "x")
        async with broadcaster.subscribe("quiet", after=cursor) as subscriber:
            await broadcaster.publish("quiet", "0")
            [event] = await take_items(subscriber, 1)
    assert isinstance(event, Event)
    assert event.message == "0"


async def test_no_gap_for_a_slow_reader_of_a_channel_that_was_idle(clock: Clock) -> None:
    async with (
        Broadcaster(backend=MemoryBackend(history=100, ttl=60)) as broadcaster,
        broadcaster.subscribe("quiet", buffer_size=4) as subscriber,
    ):
        await broadcaster.publish("other", "x")
        clock.now += 61
        await broadcaster.publish("another", "x")
        await publish(broadcaster, "quiet", 10)
        items = await take_items(subscriber, 10)
    assert [item.message for item in items if isinstance(item, Event)] == list(map(str, range(10)))


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_a_slow_reader_of_a_pattern_gets_one_gap_however_many_channels(
    overflow: Literal["drop_oldest", "drop_newest"],
) -> None:
    """Its channel is the pattern: that is what the reader subscribed to."""
    async with (
        Broadcaster("memory://?history=1") as broadcaster,
        broadcaster.subscribe(pattern="c.*", buffer_size=10, overflow=overflow) as subscriber,
        broadcaster.subscribe("c.1999") as last,
    ):
        for number in range(2_000):
            await broadcaster.publish(f"c.{number}", "x")
        await last.get()
        items = await take_items(subscriber, 11)
    [gap] = [item for item in items if isinstance(item, Gap)]
    assert gap == Gap("c.*", "slow", 1_990)
    assert items.index(gap) == (0 if overflow == "drop_oldest" else 10)
