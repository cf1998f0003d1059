"""One listening connection of Redis pub/sub: a task that reads, and what waits for its answers."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from fastapi_broadcaster.backends._redis import Server
from fastapi_broadcaster.exceptions import (
    BackendError,
    ConnectionLostError,
)
from fastapi_broadcaster.messages import Gap, Message

_QUIET = 3.0  # seconds of silence before a PING, and again before the server counts as gone


class _Command:
    """A SUBSCRIBE or its like, until the server has confirmed every name; a PING has none."""

    def __init__(self, names: Collection[str]) -> None:
        self.names = set(names)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Listening:
    """One listening connection: a task that reads, and what waits for its answers."""

    def __init__(
        self,
        server: Server,
        connection: AbstractConnection,
        live: dict[str, set[str]],
        were_live: dict[str, set[str]],
    ) -> None:
        self._name = str(server)
        self._timeout = server.timeout
        self._connection = connection
        self._live = live
        self._were_live = were_live
        self._commands: deque[_Command] = deque()
        self._heard: list[Message | Gap] = []
        self._wake = asyncio.Event()
        self._last = time.monotonic()
        self._lost: Exception | None = None
        self._tasks = [
            asyncio.create_task(self._guard(work), name="broadcaster-redis")
            for work in (self._read, self._watch)
        ]

    async def batches(self) -> AsyncIterator[Sequence[Message | Gap]]:
        """Whatever has been read since, until the connection is lost."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._heard = self._heard, []
            if batch:
                yield batch
            if self._lost is not None:
                raise ConnectionLostError(f"{self._name}: {self._lost}") from self._lost

    async def send(self, command: str, names: Sequence[str]) -> None:
        """Send a command and wait until the server has confirmed all of it."""
        if self._lost is not None:
            raise ConnectionLostError(f"{self._name}: {self._lost}") from self._lost
        waiting = _Command(names)
        try:
            await self._write(waiting, command, *names)
        except (RedisError, OSError) as error:
            self._lose(error)
        await waiting.done

    async def _write(self, waiting: _Command, *words: str) -> None:
        self._commands.append(waiting)
        try:
            async with asyncio.timeout(self._timeout):
                await self._connection.send_command(*words, check_health=False)
        except TimeoutError:
            raise RedisTimeoutError(f"takes nothing for {self._timeout:g} s") from None

    async def _guard(self, work: Any) -> None:
        try:
            await work()
        except (RedisError, OSError) as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        if self._lost is None:
            self._lost = error
        self._wake.set()
        for command in self._commands:
            if command.names and not command.done.done():
                command.done.set_exception(ConnectionLostError(f"{self._name}: {error}"))
        self._commands.clear()

    async def _read(self) -> None:
        """Read without end; what one read of the socket brought becomes one batch."""
        read = cast("Callable[..., Awaitable[Any]]", self._connection.read_response)
        while True:
            try:
                answer = await read(timeout=math.inf, disconnect_on_error=False, push_request=True)
            except ResponseError as error:
                self._last = time.monotonic()  # not even a refused PING is silence
                self._refused(error)
                continue
            self._last = time.monotonic()
            self._take(answer)

    def _take(self, answer: Any) -> None:
        match answer:
            case [b"message", bytes(channel), bytes(data)]:
                self._heard.append(Message(_text(channel), data))
            case [b"pmessage", bytes(pattern), bytes(channel), bytes(data)]:
                self._heard.append(Message(_text(channel), data, None, _text(pattern)))
            case [b"subscribe" | b"psubscribe" as kind, bytes(name), _]:
                self._confirm("p" if kind == b"psubscribe" else "", _text(name))
            case [b"unsubscribe" | b"punsubscribe" as kind, bytes(name), _]:
                self._live["p" if kind == b"punsubscribe" else ""].discard(_text(name))
                return self._settle(_text(name))
            case b"PONG" | [b"pong", _]:
                return self._settle("")
            case _:
                return
        self._wake.set()

    def _confirm(self, kind: str, name: str) -> None:
        self._live[kind].add(name)
        if name in self._were_live[kind]:
            self._were_live[kind].discard(name)
            self._heard.append(Gap(name, "reconnected"))
        self._settle(name)

    def _settle(self, name: str) -> None:
        while self._commands and not self._commands[0].names:
            self._commands.popleft()  # a PING, answered by now: answers come in order
        if self._commands:
            command = self._commands[0]
            command.names.discard(name)
            if not command.names:
                self._commands.popleft()
                if not command.done.done():
                    command.done.set_result(None)

    def _refused(self, error: Exception) -> None:
        if self._commands:
            command = self._commands.popleft()
            if command.names and not command.done.done():
                command.done.set_exception(BackendError(f"{self._name}: {error}"))

    async def _watch(self) -> None:
        """Notice a server, or a network, that is silent without closing the connection."""
        while True:
            await asyncio.sleep(_QUIET)
            asked = time.monotonic()
            if asked - self._last < _QUIET:
                continue
            await self._write(_Command(()), "PING")
            await asyncio.sleep(_QUIET)
            if self._last < asked:
                raise RedisTimeoutError(f"no answer to PING within {_QUIET:g} s")

    async def close(self) -> None:
        """End both tasks and the connection."""
        self._lose(RedisConnectionError("the connection was closed"))
        for task in self._tasks:
            task.cancel()
        try:
            await asyncio.wait(self._tasks)
        finally:  # also when whoever closes us is cancelled meanwhile
            await self._connection.disconnect(nowait=True)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
