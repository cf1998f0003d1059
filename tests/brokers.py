"""The brokers behind the backends, as the tests see them: to reach, to break, to look into."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from redis.asyncio import Redis as RedisClient

from fastapi_broadcaster import (
    BackendError,
    BackendUnavailableError,
    Backoff,
    Broadcaster,
    ConnectionLostError,
    Gap,
    MemoryBackend,
    Message,
)
from fastapi_broadcaster.messages import Cursor
from servers import Redis
from tests.proxy import Proxy

QUICK = Backoff(first=0.02, cap=0.2)


class Broker(ABC):
    """One broker of a test's own, or one that a session shares; a context manager.

    Whatever looks into it goes past the package. Faults are only for brokers of a test's own.
    """

    url: str = ""
    """What another process may connect to."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:  # noqa: B027  # not all have a server
        """Give back what `__enter__` took."""

    @abstractmethod
    def broadcaster(self, *, log_size: int | None = None, **options: Any) -> Broadcaster:
        """Make one that is not connected yet; with a log, it keeps about `log_size` messages."""

    @abstractmethod
    def losing_reply(self, to: bytes) -> Any:
        """An async context manager of a connected broadcaster.

        What it publishes with exactly these bytes is accepted, and the reply is lost.
        """

    @abstractmethod
    async def kill(self) -> None:
        """End it at once, as `kill -9` does."""

    @abstractmethod
    async def restart(self) -> None:
        """Start it again, at the same place, with what it had stored."""

    @abstractmethod
    async def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""

    @abstractmethod
    async def resume(self) -> None:
        """Undo `pause`."""

    @abstractmethod
    async def drop_clients(self) -> None:
        """Close every connection; new ones are welcome."""

    @abstractmethod
    async def wipe(self) -> None:
        """Lose the log; only for brokers that keep one."""

    @abstractmethod
    async def refuse_all_but(self, prefix: str) -> None:
        """Refuse what is published on a channel whose name does not begin so."""

    @abstractmethod
    async def subscriptions(self) -> set[str]:
        """The channels and patterns that somebody is subscribed to."""


@dataclass
class Line:
    """The way between the engine and `memory://`, which has no server that could break."""

    down: bool = False
    lost_reply: bytes | None = None
    allowed: str = ""
    backends: list[CutMemory] = field(default_factory=list)

    def check(self) -> None:
        if self.down:
            raise ConnectionLostError("the line to memory:// is cut")

    def cut(self) -> None:
        self.down = True
        for backend in self.backends:
            backend.interrupt()


class CutMemory(MemoryBackend):
    """`memory://` behind a line that can be cut: nothing is lost then, it is only not reached."""

    def __init__(self, line: Line, *, history: int) -> None:
        super().__init__(history=history)
        self.line = line
        self._generation = 0
        line.backends.append(self)

    def interrupt(self) -> None:
        self._generation += 1
        if self._wake is not None:
            self._wake.set()

    def heard(self) -> set[str]:
        return self._channels | self._patterns

    async def connect(self) -> None:
        if self.line.down:
            raise BackendUnavailableError(f"{self} is not reachable")
        await super().connect()

    async def publish(self, messages: Sequence[Message]) -> Sequence[Any]:
        self.line.check()
        outcomes = []
        for message in messages:
            if message.channel.startswith(self.line.allowed):
                outcomes += await super().publish([message])
            else:
                outcomes.append(BackendError(f"{self} refused the message"))
        if any(message.data == self.line.lost_reply for message in messages):
            raise BackendUnavailableError(f"{self}: no reply", maybe_published=True)
        return outcomes

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, Cursor]:
        self.line.check()
        return await super().subscribe(channels)

    async def unsubscribe(self, channels: Collection[str]) -> None:
        self.line.check()
        await super().unsubscribe(channels)

    async def psubscribe(self, patterns: Collection[str]) -> None:
        self.line.check()
        await super().psubscribe(patterns)

    async def punsubscribe(self, patterns: Collection[str]) -> None:
        self.line.check()
        await super().punsubscribe(patterns)

    async def history(self, channel: str, **where: Any) -> list[Message]:
        self.line.check()
        return await super().history(channel, **where)

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        self.line.check()
        generation = self._generation
        async for batch in super().listen():
            if generation != self._generation:
                self._heard[:0] = batch
                raise ConnectionLostError("the line to memory:// was cut")
            yield batch


class MemoryBroker(Broker):
    """No server: each broadcaster has its own memory, and faults are those of a line to it."""

    def __init__(self) -> None:
        self.line = Line()

    def broadcaster(self, *, log_size: int | None = None, **options: Any) -> Broadcaster:
        backend = CutMemory(self.line, history=log_size or 1_024)
        return Broadcaster(backend=backend, **{"backoff": QUICK, **options})

    @asynccontextmanager
    async def losing_reply(self, to: bytes) -> AsyncIterator[Broadcaster]:
        async with self.broadcaster() as broadcaster:
            self.line.lost_reply = to
            yield broadcaster

    async def kill(self) -> None:
        self.line.cut()

    async def restart(self) -> None:
        self.line.down = False

    async def pause(self) -> None:
        self.line.cut()

    async def resume(self) -> None:
        self.line.down = False

    async def drop_clients(self) -> None:
        self.line.cut()
        self.line.down = False

    async def wipe(self) -> None:
        """The log goes with its broadcaster: the next one has another."""

    async def refuse_all_but(self, prefix: str) -> None:
        self.line.allowed = prefix

    async def subscriptions(self) -> set[str]:
        return set().union(*(backend.heard() for backend in self.line.backends))


class RedisBroker(Broker):
    """A Redis server on a free port."""

    def __init__(self) -> None:
        self.server = Redis.private()
        self.url = self.server.url

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.server.__exit__(None, None, None)

    def broadcaster(self, *, log_size: int | None = None, **options: Any) -> Broadcaster:
        return Broadcaster(self.url, **{"backoff": QUICK, **options})

    @asynccontextmanager
    async def losing_reply(self, to: bytes) -> AsyncIterator[Broadcaster]:
        async with Proxy(self.server.port, lose_reply_to=to) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}"
            async with Broadcaster(url, backoff=QUICK) as broadcaster:
                yield broadcaster

    async def kill(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def restart(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def pause(self) -> None:
        self.server.pause()

    async def resume(self) -> None:
        self.server.resume()

    async def drop_clients(self) -> None:
        await self.ask("CLIENT", "KILL", "SKIPME", "yes")

    async def wipe(self) -> None:
        await self.ask("FLUSHALL")

    async def refuse_all_but(self, prefix: str) -> None:
        await self.ask("ACL", "SETUSER", "default", "resetchannels", f"&{prefix}*")

    async def subscriptions(self) -> set[str]:
        channels = {name.decode() for name in await self.ask("PUBSUB", "CHANNELS")}
        patterns = await self.ask("PUBSUB", "NUMPAT")
        return channels | {f"pattern {number}" for number in range(patterns)}

    async def ask(self, *command: str) -> Any:
        """Send one command over a connection of its own."""
        async with RedisClient.from_url(self.server.url, socket_timeout=60) as client:
            return await client.execute_command(*command)
