"""Readers of a log that is written, trimmed and heard at the whim of a die."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, cast

from hypothesis import strategies as st

from fastapi_broadcaster import (
    Broadcaster,
    Event,
    Gap,
    MemoryBackend,
    Message,
    SlowSubscriberError,
    Subscriber,
)
from fastapi_broadcaster._buffer import Overflow
from fastapi_broadcaster.messages import Cursor
from tests.properties.ledger import Ledger, Range

CHANNELS: tuple[str, ...] = ("a", "b")
Options = dict[str, Any]
Beginning = Callable[[str, int], Range]


class LaggingMemory(MemoryBackend):
    """The listener gets one message per permit, and reading the log takes its time."""

    def __init__(self, die: random.Random, *, history: int) -> None:
        super().__init__(history=history)
        self.die = die
        self.permits = asyncio.Semaphore(0)
        self.unlimited = False
        self.heard = dict.fromkeys(CHANNELS, 0)

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        async for batch in super().listen():
            if not batch:
                yield batch
            for item in batch:
                if not self.unlimited:
                    await self.permits.acquire()
                self.heard[item.channel] += 1
                yield [item]

    async def history(
        self,
        channel: str,
        *,
        after: Cursor | None = None,
        before: Cursor | None = None,
        since: datetime | None = None,
        limit: int,
    ) -> list[Message]:
        await self._pause()
        found = await super().history(channel, after=after, before=before, since=since, limit=limit)
        await self._pause()
        return found

    async def _pause(self) -> None:
        for _ in range(self.die.randrange(5)):
            await asyncio.sleep(0)


@dataclass(frozen=True)
class Case:
    """`steps`: one letter each. Publish, burst, let the listener have one or all, subscribe, read,
    cancel a read, yield."""

    steps: str
    seed: int
    channels: Literal[1, 2]
    kept: int
    buffer_size: int
    overflow: Overflow = "catch_up"


_STEPS = "SPPPPBDDDLRRRRRCYYYY"
_long = st.integers(0, 2**32).map(
    lambda seed: "".join(random.Random(seed).choices(_STEPS, k=seed % 200))
)


def cases(*overflows: Overflow) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        steps=st.one_of(st.text(_STEPS, max_size=60), _long),
        seed=st.integers(0, 2**32),
        channels=st.sampled_from([1, 2]),
        kept=st.sampled_from([1, 2, 4, 8, 100]),
        buffer_size=st.sampled_from([1, 2, 3, 5]),
        overflow=st.sampled_from(overflows),
    )


class World:
    def __init__(self, case: Case) -> None:
        self.case = case
        self.die = random.Random(case.seed)
        self.backend = LaggingMemory(self.die, history=case.kept)
        self.broadcaster = Broadcaster(backend=self.backend, linger=0.01)
        self.names = CHANNELS[: case.channels]
        self.published = dict.fromkeys(CHANNELS, 0)
        self.readers: list[Reader] = []

    def floor(self, name: str) -> int:
        """How many messages are no longer in the log."""
        return max(0, self.published[name] - self.case.kept)

    async def publish(self) -> None:
        name = self.die.choice(self.names)
        self.published[name] += 1
        await self.broadcaster.publish(name, str(self.published[name]))

    async def play(self) -> None:
        async with self.broadcaster, AsyncExitStack() as stack:
            for step in self.case.steps:
                await self._step(step, stack)
            self.backend.unlimited = True
            for _ in range(1_000):
                self.backend.permits.release()
            for reader in self.readers:
                await reader.finish()

    async def _step(self, step: str, stack: AsyncExitStack) -> None:
        readers = [reader for reader in self.readers if reader.subscriber is not None]
        match step:
            case "P":
                await self.publish()
            case "B":
                for _ in range(self.die.randrange(8)):
                    await self.publish()
            case "D":
                self.backend.permits.release()
            case "L":
                for _ in range(20):
                    self.backend.permits.release()
            case "S" if len(self.readers) < 4:
                self.readers.append(Reader(self, stack))
            case "R" if readers:
                self.die.choice(readers).begin_reading()
            case "C" if readers:
                self.die.choice(readers).cancel()
            case _:
                await asyncio.sleep(0)


@dataclass(frozen=True)
class Resume:
    """An id with which to go on, and where that is."""

    id: str
    options: Options
    beginning: Beginning
    places: dict[str, Range]
    untouched: set[str]

    def place(self, name: str, now: int) -> Range:
        """An id may leave out a channel of which nothing was handed on: that one begins anew."""
        low, high = self.places[name]
        if name not in self.untouched:
            return low, high
        anew = self.beginning(name, now)
        return min(low, anew[0]), max(high, anew[1])


class Reader:
    """One subscriber, what it asked for, and what it was handed."""

    def __init__(self, world: World, stack: AsyncExitStack) -> None:
        self.world = world
        self.ledgers: dict[str, Ledger] = {}
        self.subscriber: Subscriber[str] | None = None
        self.ended = False
        self._reading: asyncio.Task[None] | None = None
        self._entering = asyncio.create_task(self._enter(stack))
        self._last: Resume | None = None

    async def _enter(self, stack: AsyncExitStack) -> None:
        world, case, names = self.world, self.world.case, self.world.names
        options, begin = self._choose()
        earliest = {name: begin(name, world.backend.heard[name]) for name in names}
        subscription = world.broadcaster.subscribe(
            names, buffer_size=case.buffer_size, overflow=case.overflow, **options
        )
        subscriber = await stack.enter_async_context(subscription)
        latest = {name: begin(name, world.published[name]) for name in names}
        for name in names:
            self.ledgers[name] = Ledger((earliest[name][0], latest[name][1]))
        self.subscriber = subscriber

    def _choose(self) -> tuple[Options, Beginning]:
        """Options, and where in the log they begin as things stand."""
        options, begin = self.options, self.beginning = self._choose_history()
        known = [one.resumable() for one in self.world.readers if one is not self]
        resumable = [resume for resume in known if resume is not None]
        if not resumable or self.world.die.random() < 0.6:
            return options, begin
        resume = self.world.die.choice(resumable)
        self.options, self.beginning = resume.options, resume.beginning
        return {**resume.options, "after": resume.id}, resume.place

    def _choose_history(self) -> tuple[Options, Beginning]:
        world = self.world
        count = world.die.choice([1, 2, 3, 5, 8])

        def newest(name: str, _: int) -> Range:
            start = max(world.floor(name), world.published[name] - count)
            return start, start

        def oldest(name: str, _: int) -> Range:
            return world.floor(name), world.floor(name)

        choices: list[tuple[Options, Beginning]] = [
            ({}, lambda name, now: (now, now)),
            ({"history": 0}, lambda name, now: (now, now)),
            ({"history": "all"}, oldest),
            ({"history": timedelta(days=1)}, oldest),
            ({"history": count}, newest),
        ]
        return world.die.choice(choices)

    def resumable(self) -> "Resume | None":
        """The cursor, or the id of the last event, and where whoever resumes with it stands."""
        if self.subscriber is None:
            return None
        if self._last is not None and self.world.die.random() < 0.5:
            return self._last
        id = self.subscriber.cursor
        return self._resume(id) if id is not None else None

    def _resume(self, id: str) -> "Resume":
        places = {name: ledger.resumed for name, ledger in self.ledgers.items()}
        untouched = {name for name, ledger in self.ledgers.items() if not ledger.items}
        return Resume(id, self.options, self.beginning, places, untouched)

    def begin_reading(self) -> None:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())

    def cancel(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self) -> None:
        assert self.subscriber is not None
        try:
            stream = cast(AsyncGenerator[Event[str] | Gap, None], self.subscriber.stream())
            async with aclosing(stream):
                item = await anext(stream, None)
        except SlowSubscriberError:
            self.ended = True
            return
        if isinstance(item, Gap):
            self.ledgers[item.channel].hand(item)
        elif item is not None:
            self.ledgers[item.channel].hand(int(item.message))
            assert item.id is not None
            self._last = self._resume(item.id)

    async def finish(self) -> None:
        """Read on until nothing comes, and see that nothing is missing."""
        await self._entering
        while not self.ended:
            self.begin_reading()
            assert self._reading is not None
            done, _ = await asyncio.wait([self._reading], timeout=10)
            if not done:
                self._reading.cancel()
                break
            if not self._reading.cancelled():
                self._reading.result()
        for name, ledger in self.ledgers.items():
            if not self.ended:
                ledger.end(self.world.published[name])
