"""Topics of three partitions, whose records are spread and whose times are in no order."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from fastapi_broadcaster import Broadcaster, Channel
from servers import Kafka
from tests.conformance.tools import PATIENCE, take
from tests.kafka.bare import bare_producer, make_topic

NUMBERS = range(36)


@dataclass
class Spread:
    """A channel whose messages are numbers, each in the partition `number % 3`, in order there."""

    broadcaster: Broadcaster
    server: Kafka
    topic: str
    channel: Channel[str]

    async def publish(self, numbers: range) -> None:
        """With times that go back and forth, and messages of another channel between."""
        dice = random.Random(3)
        begun = round(time.time() * 1000)
        async with bare_producer(self.server.port) as producer:
            for number in numbers:
                at = begun + dice.randrange(20)
                for key in (self.channel.name, "another"):
                    if key == self.channel.name or self.topic != self.channel.name:
                        await producer.send_and_wait(
                            self.topic,
                            f"{number}".encode(),
                            key.encode(),
                            partition=number % 3,
                            timestamp_ms=at,
                        )

    async def read(self, count: int, **options: object) -> tuple[list[int], list[str]]:
        """Numbers and ids."""
        async with self.channel.subscribe(buffer_size=4, **options) as subscriber:  # type: ignore[arg-type]
            async with asyncio.timeout(PATIENCE):
                events = [await subscriber.get() for _ in range(count)]
            assert subscriber.gaps == 0
            assert events == [] or events[-1].id == subscriber.cursor
        assert all(event.id for event in events)
        return [int(event.message) for event in events], [event.id or "" for event in events]


@pytest.fixture(params=["CreateTime", "LogAppendTime"])
async def times(request: pytest.FixtureRequest) -> str:
    """Whose clock the records have."""
    return request.param


@pytest.fixture(params=["own", "shared"])
async def spread(
    request: pytest.FixtureRequest, server: Kafka, name: str, times: str
) -> AsyncIterator[Spread]:
    """A channel in its own topic, or in one with others."""
    await make_topic(server, name, partitions=3, config={"message.timestamp.type": times})
    url = server.url if request.param == "own" else f"{server.url}?topic={name}"
    async with Broadcaster(url) as broadcaster:
        channel = broadcaster.channel(name if request.param == "own" else "room")
        spread = Spread(broadcaster, server, name, channel)
        await spread.publish(NUMBERS)
        yield spread


def in_order(numbers: list[int]) -> bool:
    """Whether each partition's are in its order, and none is there twice."""
    return all(
        part == sorted(set(part)) for part in ([n for n in numbers if n % 3 == p] for p in range(3))
    )


async def test_an_id_of_a_live_event_resumes_all_partitions(spread: Spread) -> None:
    async with spread.channel.subscribe() as subscriber:
        more = range(len(NUMBERS), len(NUMBERS) + 9)
        await spread.publish(more)
        events = [await subscriber.get() for _ in more]
    heard = [int(event.message) for event in events]
    for at, event in enumerate(events):
        rest, _ = await spread.read(len(more) - at - 1, after=event.id)
        assert sorted(rest) == sorted(heard[at + 1 :])
        assert in_order(rest)


@pytest.mark.parametrize("history", [2, 7, "all"])
async def test_an_id_of_history_resumes_all_partitions(spread: Spread, history: int | str) -> None:
    """The newest N are the last ones of each partition; what comes later is there once."""
    count = len(NUMBERS) if history == "all" else int(history)
    found, ids = await spread.read(count, history=history)
    for partition in range(3):
        own = [number for number in found if number % 3 == partition]
        assert own == [number for number in NUMBERS if number % 3 == partition][12 - len(own) :]
    later = range(len(NUMBERS), len(NUMBERS) + 6)
    await spread.publish(later)
    for at, id in enumerate(ids):
        rest, _ = await spread.read(count - at - 1 + len(later), after=id)
        assert sorted(rest) == sorted([*found[at + 1 :], *later]), id
        assert in_order(rest)


async def test_pages_in_both_directions(spread: Spread) -> None:
    """Everything once, each partition in its order."""
    page = await spread.channel.page(limit=5)
    back = [int(event.message) for event in page.items]
    while page.previous is not None:
        page = await spread.channel.page(limit=5, before=page.previous)
        back = [int(event.message) for event in page.items] + back
    assert sorted(back) == [*NUMBERS]
    assert in_order(back)
    page = await spread.channel.page(limit=5, after="-")
    forth = [int(event.message) for event in page.items]
    while page.next is not None:
        page = await spread.channel.page(limit=5, after=page.next)
        forth += [int(event.message) for event in page.items]
    assert sorted(forth) == [*NUMBERS]
    assert in_order(forth)


async def test_history_and_then_live(spread: Spread) -> None:
    """Without a seam, also where the history is of some of the partitions only."""
    async with spread.channel.subscribe(history=2, buffer_size=2) as subscriber:
        found = [int(one) for one in await take(subscriber, 2)]
        later = range(len(NUMBERS), len(NUMBERS) + 30)
        await spread.publish(later)
        found += [int(one) for one in await take(subscriber, len(later))]
        assert subscriber.gaps == 0
    assert sorted(found[2:]) == [*later]
    assert in_order(found)
