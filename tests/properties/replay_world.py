"""Readers of a log that is written, trimmed, cut off and heard at the whim of a die."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from hypothesis import strategies as st

from fastapi_broadcaster import BackendUnavailableError, Broadcaster
from fastapi_broadcaster._buffer import Overflow
from tests.conformance.tools import back, until
from tests.properties.lag import Lag
from tests.properties.ledger import Range
from tests.properties.replay_reader import Reader


@dataclass(frozen=True)
class Case:
    """`steps`: one letter each. Publish, burst, let the listener have one or all, subscribe, read,
    cancel a read, leave, trim the log, drop all connections, wait a little."""

    steps: str
    seed: int
    channels: Literal[1, 2]
    kept: int
    buffer_size: int
    overflow: Overflow = "catch_up"


STEPS = "SSPPPPPPPPBBDDDDDDLLRRRRRRRRRRCCXTKYYYYYYYY"


def cases(*overflows: Overflow, longest: int | None = None) -> st.SearchStrategy[Case]:
    """With `longest` there are at most so many steps, each as frequent as in `STEPS`."""
    long = st.integers(0, 2**32).map(
        lambda seed: "".join(random.Random(seed).choices(STEPS, k=seed % (longest or 200)))
    )
    return st.builds(
        Case,
        steps=st.one_of(st.text(STEPS, max_size=60), long) if longest is None else long,
        seed=st.integers(0, 2**32),
        channels=st.sampled_from([1, 2]),
        kept=st.sampled_from([1, 2, 4, 8, 100]),
        buffer_size=st.sampled_from([1, 2, 3, 5]),
        overflow=st.sampled_from(overflows),
    )


@dataclass
class Ground:
    """Where a world stands: a broadcaster to listen through, and what may befall its log."""

    broadcaster: Broadcaster
    lag: Lag
    drop: Callable[[], Awaitable[None]]
    trim: Callable[[str, int, int], Awaitable[None]] | None = None
    """Removes from a channel, from which so many messages are gone, so many more."""
    ring: int | None = None
    """How many messages of a channel are kept, of themselves."""
    publisher: Broadcaster | None = None
    """Who publishes half of it, if not the same broadcaster."""
    names: tuple[str, ...] = ("a", "b")
    by_entry: bool = False
    patience: float = 10.0  # seconds until a reader that should get something has failed


@dataclass
class Line:
    """How far the log of one channel is: what has begun may be done already, or not yet."""

    begun: int = 0
    done: int = 0
    trimming: int = 0
    trimmed: int = 0


@dataclass
class World:
    case: Case
    ground: Ground
    readers: list[Reader] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.die = random.Random(self.case.seed)
        self.names = self.ground.names[: self.case.channels]
        self.lines = {name: Line() for name in self.names}
        self._wanted: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._is_ending = False

    def length(self, name: str) -> Range:
        return self.lines[name].done, self.lines[name].begun

    def floor(self, name: str) -> Range:
        """How many messages are no longer in the log."""
        line = self.lines[name]
        if self.ground.ring is None:
            return line.trimmed, line.trimming
        return max(0, line.done - self.ground.ring), max(0, line.begun - self.ground.ring)

    async def play(self) -> None:
        self.ground.lag.begin(self.die)
        writing = asyncio.create_task(self._write())
        try:
            for step in self.case.steps:
                await self._step(step)
            self._is_ending = True
            self.ground.lag.let_go()
            for reader in self.readers:
                await reader.entered()
            for name in self.names:  # what comes last, to all of them
                self._wanted.put_nowait(lambda name=name: self._publish(name))
            await self._settled(writing)
            for reader in self.readers:
                await reader.finish()
        finally:
            self.ground.lag.let_go()
            writing.cancel()
            await asyncio.wait([writing])
            for reader in self.readers:
                await reader.leave()

    async def _settled(self, writing: asyncio.Task[None]) -> None:
        settled = asyncio.create_task(self._wanted.join())
        await asyncio.wait([settled, writing], return_when=asyncio.FIRST_COMPLETED)
        settled.cancel()
        if writing.done():
            writing.result()

    async def _step(self, step: str) -> None:
        wanted, readers = self._wanted, [reader for reader in self.readers if reader.is_open]
        match step:
            case "P":
                wanted.put_nowait(self._publish)
            case "B":
                for _ in range(self.die.randrange(8)):
                    wanted.put_nowait(self._publish)
            case "D":
                self.ground.lag.permits.release()
            case "L":
                for _ in range(20):
                    self.ground.lag.permits.release()
            case "S" if sum(not reader.left for reader in self.readers) < 4:
                self.readers.append(Reader(self))
            case "R" if readers:
                self.die.choice(readers).begin_reading()
            case "C" if readers:
                self.die.choice(readers).cancel()
            case "X" if readers:
                leaving = self.die.choice(readers)
                leaving.judge()
                await leaving.leave()
            case "T" if self.ground.trim is not None:
                wanted.put_nowait(self._trim)
            case "K":
                wanted.put_nowait(self._drop)
            case _:
                await asyncio.sleep(0 if self.die.random() < 0.7 else 0.002)

    # -- one thing after the other: what the log goes through -------------------------------

    async def _write(self) -> None:
        while True:
            change = await self._wanted.get()
            await change()
            self._wanted.task_done()

    async def _publish(self, name: str | None = None) -> None:
        name = self.die.choice(self.names) if name is None else name
        line = self.lines[name]
        line.begun += 1
        ground = self.ground
        publisher = self.die.choice([ground.broadcaster, ground.publisher or ground.broadcaster])
        while line.done < line.begun:
            try:
                await publisher.publish(name, str(line.begun))
            except BackendUnavailableError as error:  # over a connection that had been dropped
                if not error.maybe_published:
                    raise
                page = await publisher.channel(name).page(limit=1)
                if not page.items or int(page.items[-1].message) != line.begun:
                    continue
            line.done = line.begun

    async def _trim(self) -> None:
        assert self.ground.trim is not None
        name = self.die.choice(self.names)
        line = self.lines[name]
        line.trimming = max(line.trimmed, line.done - self.die.choice([0, 1, 2, 4]))
        if line.trimming > line.trimmed:
            await self.ground.trim(name, line.trimmed, line.trimming - line.trimmed)
        line.trimmed = line.trimming

    async def _drop(self) -> None:
        """The listener must have its messages before it can notice."""
        lag, broadcaster = self.ground.lag, self.ground.broadcaster
        lag.let_go()
        await back(broadcaster)
        before = broadcaster.health().reconnects
        while broadcaster.health().reconnects == before:
            await self.ground.drop()
            with suppress(TimeoutError):  # a connection that has just begun may escape
                async with asyncio.timeout(2.0):
                    await until(lambda: broadcaster.health().reconnects > before)
        await back(broadcaster)
        if not self._is_ending:
            lag.hold()
