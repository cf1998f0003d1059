"""Publishers that never stop, and what may be said of what readers have heard of them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi_broadcaster import BackendUnavailableError, Broadcaster, Event, Gap
from tests.conformance.tools import Reader, until

PAUSE = 0.05  # seconds between two messages of a publisher; so a log holds all of some minutes
END = float("inf")


@dataclass
class Publisher:
    """Publishes numbers on a channel, one after the other, whatever comes of them."""

    name: str
    broadcaster: Broadcaster
    channel: str
    number: int = -1
    """The last one that was begun."""
    acknowledged: list[int] = field(default_factory=list[int])
    maybe: list[int] = field(default_factory=list[int])
    refused: list[int] = field(default_factory=list[int])

    async def run(self, stopping: asyncio.Event) -> None:
        """Until it is told to stop; then say that this was all."""
        while not stopping.is_set():
            self.number += 1
            await self.publish(self.number)
            await asyncio.sleep(PAUSE)
        await self.broadcaster.publish(self.channel, f"{self.name} end")

    async def publish(self, number: int) -> None:
        try:
            await self.broadcaster.publish(self.channel, f"{self.name} {number}")
        except BackendUnavailableError as error:
            (self.maybe if error.maybe_published else self.refused).append(number)
        else:
            self.acknowledged.append(number)


@asynccontextmanager
async def traffic(publishers: list[Publisher]) -> AsyncIterator[None]:
    """Let them publish for as long as the block runs."""
    stopping = asyncio.Event()
    tasks = [asyncio.create_task(one.run(stopping)) for one in publishers]
    try:
        yield
        stopping.set()
        async with asyncio.timeout(30):
            await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def more(publishers: Iterable[Publisher], wanted: int = 5) -> None:
    """Wait until so many more of each are acknowledged."""
    targets = [(one, len(one.acknowledged) + wanted) for one in publishers]
    await until(lambda: all(len(one.acknowledged) >= target for one, target in targets))


async def heard_all(reader: Reader, publishers: Iterable[Publisher]) -> None:
    """Wait until a reader has heard the end of each."""
    for publisher in publishers:
        await reader.until(f"{publisher.name} end")


def numbers_of(items: Iterable[Event[str] | Gap], publisher: Publisher) -> list[float]:
    """What was heard of a publisher, its end included."""
    return [number for item in items if (number := _number(item, publisher)) is not None]


def _number(item: Event[str] | Gap, publisher: Publisher) -> float | None:
    if isinstance(item, Gap):
        return None
    name, _, number = item.message.partition(" ")
    if name != publisher.name or item.channel != publisher.channel:
        return None
    return END if number == "end" else int(number)


def missing(reader: Reader, publishers: Iterable[Publisher]) -> dict[str, list[int]]:
    """What was acknowledged and not heard; raises if something is wrong with what was heard.

    Nothing came twice, nothing out of order, and nothing that was told to be refused.
    """
    found: dict[str, list[int]] = {}
    for publisher in publishers:
        heard = numbers_of(reader.items, publisher)
        assert heard == sorted(set(heard)), f"{publisher.name}: twice, or out of order"
        assert not set(heard) & set(publisher.refused), f"{publisher.name}: refused, and heard"
        assert set(heard) <= {*publisher.acknowledged, *publisher.maybe, END}
        found[publisher.name] = sorted(set(publisher.acknowledged) - set(heard))
    return found


def untold(reader: Reader, publishers: Iterable[Publisher]) -> dict[str, list[int]]:
    """What is missing and does not lie between the events around a gap of its channel."""
    found: dict[str, list[int]] = defaultdict(list)
    for publisher in publishers:
        lost = missing(reader, [publisher])[publisher.name]
        holes: list[tuple[float, float]] = []
        for at, item in enumerate(reader.items):
            if isinstance(item, Gap) and item.channel == publisher.channel:
                before = numbers_of(reader.items[:at], publisher)
                behind = numbers_of(reader.items[at:], publisher)
                holes.append((before[-1] if before else -1.0, behind[0]))
        for number in lost:
            if not any(low < number < high for low, high in holes):
                found[publisher.name].append(number)
    return found
