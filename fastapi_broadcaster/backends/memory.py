"""`memory://`: one process, a ring of recent messages per channel. The reference: read it first."""

import asyncio
import logging
import multiprocessing
import os
import re
import secrets
import sys
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fastapi_broadcaster.backends.base import HistoryBackend, Outcome, PatternBackend
from fastapi_broadcaster.exceptions import HistoryLostError
from fastapi_broadcaster.messages import Cursor, Gap, Message

logger = logging.getLogger("fastapi_broadcaster")
_SHIFT = 32  # a key is the backend's counter, then the channel's own in the low bits
_LOW = (1 << _SHIFT) - 1


def from_url(url: str) -> "MemoryBackend":
    """`memory://`, or `memory://?history=100&ttl=60`."""
    options = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    readers: dict[str, Callable[[str], float]] = {"history": int, "ttl": float}
    values: dict[str, Any] = {}
    for name, text in options.items():
        if name not in readers:
            raise ValueError(f"memory://: unknown option {name!r}; there are history and ttl")
        try:
            values[name] = readers[name](text)
        except ValueError:
            raise ValueError(f"memory://: {name}={text!r} is not a number") from None
    return MemoryBackend(**values)


class _Ring:
    """The newest messages of one channel."""

    __slots__ = ("born", "count", "floor", "messages", "used")

    def __init__(self, born: int, floor: int) -> None:
        self.messages: deque[Message] = deque()
        self.count = 0  # messages ever put in
        self.born = born  # keys below are of an earlier ring of the same name
        self.floor = floor  # nothing behind this key was dropped
        self.used = 0.0


class MemoryBackend(HistoryBackend, PatternBackend):
    """Delivers within this process and keeps the newest `history` messages of each channel.

    A channel that nobody publishes to for `ttl` seconds loses its history. Every restart begins
    a new log: an id of an earlier process is a gap with the reason "reset".
    """

    def __init__(self, *, history: int = 1_024, ttl: float = 300.0) -> None:
        if history < 1 or ttl <= 0:
            raise ValueError("memory://: history and ttl must be positive")
        self.size = history
        self.ttl = ttl
        self._epoch = secrets.token_hex(4)
        self._counter = 0
        self._floor = 0  # the newest key that went with an idle ring
        self._idle_at = 0.0  # no ring is idle before that time
        self._rings: OrderedDict[str, _Ring] = OrderedDict()  # the longest idle one first
        self._channels: set[str] = set()
        self._patterns: set[str] = set()
        self._heard: list[Message | Gap] = []
        self._wake: asyncio.Event | None = None

    def __str__(self) -> str:
        return "memory://"

    async def connect(self) -> None:
        if workers := _several_workers():
            logger.warning(
                "memory:// reaches only the subscribers of its own process, but %s: "
                "use redis:// or another broker to reach all of them",
                workers,
            )

    async def disconnect(self) -> None:
        self._heard.clear()
        self._channels.clear()
        self._patterns.clear()
        self._wake = None

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        now, at = time.monotonic(), time.time()
        for message in messages:
            ring = self._use(message.channel, now)
            self._counter += 1
            ring.count += 1
            message.position = "", self._counter << _SHIFT | ring.count & _LOW
            message.time = at
            ring.messages.append(message)
            if len(ring.messages) > self.size:
                ring.floor = _key_of(ring.messages.popleft())
            if message.channel in self._channels or self._patterns:
                self._heard.append(message)
        if self._wake is not None and self._heard:
            self._wake.set()
        if now > self._idle_at:
            self._drop_idle(now)
        return [message.position for message in messages]

    def _use(self, channel: str, now: float) -> _Ring:
        """The ring of a channel, which is not idle now."""
        ring = self._rings.get(channel)
        if ring is None:
            ring = self._rings[channel] = _Ring(self._counter << _SHIFT, self._floor)
        else:
            self._rings.move_to_end(channel)
        ring.used = now
        return ring

    def _drop_idle(self, now: float) -> None:
        """Forget rings that nobody used for long; one with a subscriber is in use."""
        while self._rings:
            channel, ring = next(iter(self._rings.items()))
            if now - ring.used <= self.ttl:
                self._idle_at = ring.used + self.ttl
                return
            if channel in self._channels:
                self._use(channel, now)
                continue
            if ring.messages:
                self._floor = max(self._floor, _key_of(ring.messages[-1]))
            del self._rings[channel]

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, Cursor]:
        self._channels.update(channels)
        now, counter = time.monotonic(), self._counter << _SHIFT
        return {
            channel: {"": counter | self._use(channel, now).count & _LOW} for channel in channels
        }

    async def unsubscribe(self, channels: Collection[str]) -> None:
        self._channels.difference_update(channels)
        now = time.monotonic()
        for channel in channels:
            self._use(channel, now)

    async def psubscribe(self, patterns: Collection[str]) -> None:
        self._patterns.update(patterns)

    async def punsubscribe(self, patterns: Collection[str]) -> None:
        self._patterns.difference_update(patterns)

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        wake = self._wake = asyncio.Event()
        yield ()
        while True:
            await wake.wait()
            wake.clear()
            batch, self._heard = self._heard, []
            yield batch

    async def history(
        self,
        channel: str,
        *,
        after: Cursor | None = None,
        before: Cursor | None = None,
        since: datetime | None = None,
        limit: int,
    ) -> list[Message]:
        self._drop_idle(time.monotonic())
        ring = self._rings.get(channel)
        messages = list(ring.messages) if ring is not None else []
        if after is not None:
            key = after.get("", -1)
            if key >= 0:
                self._prove(key, ring)
            return [message for message in messages if _key_of(message) > key][:limit]
        if since is not None:
            start = since.astimezone(UTC).timestamp()
            return [message for message in messages if (message.time or 0) >= start][:limit]
        if before is not None:
            end = before.get("", -1)
            messages = [message for message in messages if _key_of(message) < end]
        return messages[-limit:]

    def _prove(self, key: int, ring: _Ring | None) -> None:
        """Raise unless nothing behind the key was dropped."""
        floor = self._floor if ring is None else ring.floor
        if key >> _SHIFT >= floor >> _SHIFT:
            return
        missed = None
        if ring is not None and key >= ring.born:
            missed = ring.count - len(ring.messages) - (key & _LOW)
        raise HistoryLostError("expired", kept={"": floor}, missed=missed)

    def parse(self, id: str) -> Cursor:
        found = re.fullmatch(r"([0-9a-f]{8})-(\d{1,15})-(\d{1,10})", id)
        if found is None or found[1] != self._epoch or int(found[2]) > self._counter:
            raise HistoryLostError("reset", kept={})
        return {"": int(found[2]) << _SHIFT | (int(found[3]) & _LOW)}

    def format(self, cursor: Cursor) -> str:
        key = cursor.get("", 0)
        return f"{self._epoch}-{key >> _SHIFT}-{key & _LOW}"


def _key_of(message: Message) -> int:
    assert message.position is not None
    return message.position[1]


def _several_workers() -> str:
    """Say how one sees that several worker processes run, "" when none is seen."""
    if (count := os.environ.get("WEB_CONCURRENCY", "")).isdigit() and int(count) > 1:
        return f"WEB_CONCURRENCY is {count}"
    if multiprocessing.parent_process() is not None:
        arguments: dict[str, object] = getattr(multiprocessing.current_process(), "_kwargs", {})
        workers = getattr(arguments.get("config"), "workers", None)
        if isinstance(workers, int) and workers > 1:
            return f"the server runs {workers} workers"
    found = re.search(r"(?:^|\s)(?:--workers[ =]|-w ?)(\d+)", " ".join(sys.argv[1:]))
    if found is not None and int(found[1]) > 1:
        return f"the server was started with {found[1]} workers"
    return ""
