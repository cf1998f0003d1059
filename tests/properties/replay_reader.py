"""One reader of a world whose log changes: what it asked for, and what it was handed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from fastapi_broadcaster import Event, Gap, SlowSubscriberError, Subscriber
from tests.properties.ledger import Ledger, Range

if TYPE_CHECKING:
    from tests.properties.replay_world import World

Options = dict[str, Any]
Beginning = Callable[[str], Range]


@dataclass(frozen=True)
class Resume:
    """An id with which to go on, and where that is."""

    id: str
    options: Options
    beginning: Beginning
    places: dict[str, Range]
    untouched: set[str]

    def place(self, name: str) -> Range:
        """An id may leave out a channel of which nothing was handed on: that one begins anew."""
        low, high = self.places[name]
        if name not in self.untouched:
            return low, high
        anew = self.beginning(name)
        return min(low, anew[0]), max(high, anew[1])


class Reader:
    """One subscriber, and a ledger for each of its channels."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ledgers: dict[str, Ledger] = {}
        self.subscriber: Subscriber[str] | None = None
        self.ended = False
        self.left = False
        self._own = AsyncExitStack()
        self._reading: asyncio.Task[None] | None = None
        self._entering = asyncio.create_task(self._enter())
        self._last: Resume | None = None

    @property
    def is_open(self) -> bool:
        return self.subscriber is not None and not self.left

    async def _enter(self) -> None:
        world, case, names = self.world, self.world.case, self.world.names
        options, begin = self._choose()
        earliest = {name: begin(name)[0] for name in names}
        subscription = world.ground.broadcaster.subscribe(
            names, buffer_size=case.buffer_size, overflow=case.overflow, **options
        )
        subscriber = await self._own.enter_async_context(subscription)
        for name in names:
            at = earliest[name], begin(name)[1]
            self.ledgers[name] = Ledger(at, by_entry=world.ground.by_entry)
        self.subscriber = subscriber

    def _choose(self) -> tuple[Options, Beginning]:
        """Options, and where in the log they begin as things stand."""
        options, begin = self.options, self.beginning = self._choose_history()
        known = [one.resumable() for one in self.world.readers if one is not self]
        resumable = [resume for resume in known if resume is not None]
        if not resumable or self.world.die.random() < 0.5:
            return options, begin
        resume = self.world.die.choice(resumable)
        self.options, self.beginning = resume.options, resume.beginning
        return {**resume.options, "after": resume.id}, resume.place

    def _choose_history(self) -> tuple[Options, Beginning]:
        world = self.world
        count = world.die.choice([1, 2, 3, 5, 8])

        def live(name: str) -> Range:
            return world.ground.lag.heard[name], world.length(name)[1]

        def newest(name: str) -> Range:
            floor, length = world.floor(name), world.length(name)
            return max(floor[0], length[0] - count), max(floor[1], length[1] - count)

        def latest(name: str) -> Range:
            floor, length = world.floor(name), world.length(name)
            return max(floor[0], length[0] - 1), max(floor[1], length[1] - 1)

        choices: list[tuple[Options, Beginning]] = [
            ({}, live),
            ({"history": 0}, live),
            ({"history": "all"}, world.floor),
            ({"history": timedelta(days=1)}, world.floor),
            ({"history": count}, newest),
            ({"latest": True}, latest),
        ]
        return world.die.choice(choices)

    def resumable(self) -> Resume | None:
        """The cursor, or the id of the last event, and where whoever resumes with it stands."""
        if self.subscriber is None:
            return None
        if self._last is not None and self.world.die.random() < 0.5:
            return self._last
        id = self.subscriber.cursor
        return self._resume(id) if id is not None else None

    def _resume(self, id: str) -> Resume:
        places = {name: ledger.resumed for name, ledger in self.ledgers.items()}
        untouched = {name for name, ledger in self.ledgers.items() if not ledger.items}
        return Resume(id, self.options, self.beginning, places, untouched)

    def begin_reading(self) -> None:
        if self._reading is None or self._reading.done():
            self.judge()
            self._reading = asyncio.create_task(self._read())

    def judge(self) -> None:
        """Raise what the last read has found to be wrong."""
        reading = self._reading
        if reading is not None and reading.done() and not reading.cancelled():
            reading.result()

    def cancel(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    async def leave(self) -> None:
        """Break off; somebody may go on with the id."""
        self.left = True
        tasks = [task for task in (self._entering, self._reading) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await self._own.aclose()

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
            _, trimmed = self.world.floor(item.channel)
            self.ledgers[item.channel].hand(item, trimmed=trimmed)
        elif item is not None:
            self.ledgers[item.channel].hand(int(item.message))
            assert item.id is not None
            self._last = self._resume(item.id)

    async def entered(self) -> None:
        """Wait until the subscription is live."""
        if not self.left:
            await self._entering

    async def finish(self) -> None:
        """Read on until the last message, and see that nothing is missing."""
        while not (self.ended or self.left or self._is_through()):
            self.begin_reading()
            assert self._reading is not None
            done, _ = await asyncio.wait([self._reading], timeout=self.world.ground.patience)
            if not done:
                self._reading.cancel()
                break
        if not (self.ended or self.left):
            assert self.subscriber is not None
            more = self.subscriber.take() if self._is_through() else None
            assert more is None, f"{more} behind the last message"
            await self.leave()
            for name, ledger in self.ledgers.items():
                ledger.end(self.world.lines[name].done)

    def _is_through(self) -> bool:
        """Whether the last message of each channel was handed on."""
        lines = self.world.lines
        return all(ledger.at == (lines[name].done,) * 2 for name, ledger in self.ledgers.items())
