"""A backend of nobody, written from `backends/base.py` alone: a log, and no patterns.

Its broker lives in this process, is reached only through `ToyServer.answer`, and can be broken.
Positions are `(epoch, number)`: whoever loses the log begins another epoch.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from fastapi_broadcaster import (
    BackendError,
    BackendUnavailableError,
    Broadcaster,
    ConnectionLostError,
    Gap,
    HistoryBackend,
    HistoryLostError,
    Message,
)
from fastapi_broadcaster.backends.base import Outcome
from fastapi_broadcaster.messages import Cursor
from tests.brokers import QUICK, Broker

PATIENCE = 1.0  # seconds that a request waits for its answer


class ToyServer:
    """One log per channel, one counter for all of them."""

    def __init__(self) -> None:
        self.up = True
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.life = 0
        self.size = 1_024
        self.allowed = ""
        self.lost_reply: bytes | None = None
        self.links: set[ToyLink] = set()
        self.reset()

    def reset(self) -> None:
        self.epoch = secrets.token_hex(4)
        self.logs: dict[str, list[Message]] = defaultdict(list)
        self.dropped: dict[str, list[int]] = defaultdict(lambda: [0])  # what was trimmed away
        self.numbers = itertools.count(1)
        self.last = 0

    async def answer(self) -> None:
        """Every request begins with this."""
        await asyncio.sleep(0)
        await self.thawed.wait()
        if not self.up:
            raise ConnectionRefusedError("the toy server is down")

    def append(self, message: Message) -> Outcome:
        if not message.channel.startswith(self.allowed):
            return BackendError("toy: refused the message")
        self.last = next(self.numbers)
        position = (self.epoch, self.last)
        log = self.logs[message.channel]
        log.append(Message(message.channel, message.data, position, time=time.time()))
        while len(log) > self.size:
            self.dropped[message.channel].append(_number(log.pop(0)))
        for link in self.links:
            link.wake.set()
        return position

    def hang_up(self) -> None:
        self.life += 1
        for link in self.links:
            link.wake.set()


class ToyLink:
    """One listening connection."""

    def __init__(self, server: ToyServer) -> None:
        self.life = server.life
        self.channels: set[str] = set()
        self.wake = asyncio.Event()


class ToyBackend(HistoryBackend):
    """Keeps where it is in each channel, and goes on from there after a loss."""

    def __init__(self, server: ToyServer) -> None:
        self._server = server
        self._link: ToyLink | None = None
        self._cursors: dict[str, dict[str, int]] = {}

    def __str__(self) -> str:
        return "toy://"

    async def connect(self) -> None:
        try:
            await self._ask()
        except ConnectionLostError as error:
            raise BackendUnavailableError(str(error)) from error

    async def disconnect(self) -> None:
        self._link = None
        self._cursors.clear()

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._server.answer()
        except OSError as error:  # TimeoutError too
            raise ConnectionLostError(f"{self} is not reachable: {error}") from error

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        await self._ask()
        outcomes = [self._server.append(message) for message in messages]
        if any(message.data == self._server.lost_reply for message in messages):
            self._server.lost_reply = None
            raise BackendUnavailableError(f"{self}: no reply", maybe_published=True)
        return outcomes

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, Cursor]:
        link = self._present()
        await self._ask()
        if link is not self._link or link.life != self._server.life:
            raise ConnectionLostError(f"{self}: the connection is gone")
        for channel in channels:
            self._cursors.setdefault(channel, {self._server.epoch: self._server.last})
        link.channels.update(channels)
        link.wake.set()
        return {channel: dict(self._cursors[channel]) for channel in channels}

    async def unsubscribe(self, channels: Collection[str]) -> None:
        for channel in channels:
            self._cursors.pop(channel, None)
        self._present().channels.difference_update(channels)
        await self._ask()

    def _present(self) -> ToyLink:
        if self._link is None:
            raise ConnectionLostError(f"{self} is not connected")
        return self._link

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        await self._ask()
        link = self._link = ToyLink(self._server)
        self._server.links.add(link)
        try:
            yield ()
            while True:
                try:
                    async with asyncio.timeout(PATIENCE):
                        await link.wake.wait()
                except TimeoutError:
                    await self._ask()
                link.wake.clear()
                if link.life != self._server.life:
                    raise ConnectionLostError(f"{self}: the connection is gone")
                await self._ask()
                if batch := self._news(link):
                    yield batch
        finally:
            self._server.links.discard(link)
            self._link = None

    def _news(self, link: ToyLink) -> list[Message | Gap]:
        """All that has come behind our cursors, in the order in which it was published."""
        found: list[Message] = []
        gaps: list[Message | Gap] = []
        for channel in link.channels:
            cursor = self._cursors[channel]
            try:
                page = self._read(channel, cursor)
            except HistoryLostError as error:
                gaps.append(Gap(channel, error.reason, error.missed))
                cursor.update(error.kept)
                page = self._read(channel, cursor)
            if page:
                cursor[self._server.epoch] = _number(page[-1])
            found += page
        return gaps + sorted(found, key=_number)

    def _read(self, channel: str, after: Cursor) -> list[Message]:
        """The messages behind a cursor, all of them; raises if that cannot be proven."""
        server = self._server
        dropped = server.dropped[channel]
        kept = {server.epoch: dropped[-1]}
        if after and server.epoch not in after:
            raise HistoryLostError("reset", kept=kept)
        number = after.get(server.epoch, 0)
        if after and number < dropped[-1]:
            missed = len(dropped) - bisect_right(dropped, number)
            raise HistoryLostError("expired", kept=kept, missed=missed)
        return [message for message in server.logs[channel] if _number(message) > number]

    async def history(
        self,
        channel: str,
        *,
        after: Cursor | None = None,
        before: Cursor | None = None,
        since: datetime | None = None,
        limit: int,
    ) -> list[Message]:
        await self._ask()
        log = self._server.logs[channel]
        if after is not None:
            return self._read(channel, after)[:limit]
        if since is not None:
            start = since.timestamp()
            return [message for message in log if (message.time or 0) >= start][:limit]
        if before is not None:
            end = before.get(self._server.epoch, 0)
            log = [message for message in log if _number(message) < end]
        return log[-limit:]

    def parse(self, id: str) -> Cursor:
        try:
            pairs = [part.split("-") for part in id.split(".")]
            cursor = {epoch: int(number) for epoch, number in pairs}
        except ValueError as error:
            raise HistoryLostError("reset", kept={}) from error
        if self._server.epoch not in cursor:
            raise HistoryLostError("reset", kept={})
        return cursor

    def format(self, cursor: Cursor) -> str:
        cursor = cursor or {self._server.epoch: 0}
        return ".".join(f"{epoch}-{number}" for epoch, number in cursor.items())


def _number(message: Message) -> int:
    assert message.position is not None
    return message.position[1]


class ToyBroker(Broker):
    def __init__(self) -> None:
        self.server = ToyServer()

    def broadcaster(self, *, log_size: int | None = None, **options: Any) -> Broadcaster:
        self.server.size = log_size or self.server.size
        return Broadcaster(backend=ToyBackend(self.server), **{"backoff": QUICK, **options})

    @asynccontextmanager
    async def losing_reply(self, to: bytes) -> AsyncIterator[Broadcaster]:
        async with self.broadcaster() as broadcaster:
            self.server.lost_reply = to
            yield broadcaster

    async def kill(self) -> None:
        self.server.up = False
        self.server.hang_up()

    async def restart(self) -> None:
        self.server.up = True

    async def pause(self) -> None:
        self.server.thawed.clear()

    async def resume(self) -> None:
        self.server.thawed.set()

    async def drop_clients(self) -> None:
        self.server.hang_up()

    async def wipe(self) -> None:
        self.server.reset()

    async def refuse_all_but(self, prefix: str) -> None:
        self.server.allowed = prefix

    async def subscriptions(self) -> set[str]:
        return set().union(*(link.channels for link in self.server.links))
