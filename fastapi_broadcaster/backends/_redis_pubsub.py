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

from fastapi_broadcaster.backends._redis import ELSEWHERE, Server, pack
from fastapi_broadcaster.exceptions import (
    BackendError,
    ConnectionLostError,
)
from fastapi_broadcaster.messages import Gap, Message

_KINDS = {b"subscribe": "", b"psubscribe": "p", b"ssubscribe": "s"}
_LEAVING = ("UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE")
_QUIET = 3.0  # seconds of silence before a PING, and again before the server counts as gone


class Heard:
    """What one generation has heard since it was last looked at, in order of arrival."""

    def __init__(self) -> None:
        self._items: list[Message | Gap] = []
        self._wake = asyncio.Event()
        self._lost: ConnectionLostError | None = None

    def add(self, item: Message | Gap) -> None:
        self._items.append(item)
        self._wake.set()

    def lose(self, error: ConnectionLostError) -> None:
        """End the generation behind what has been heard."""
        self._lost = self._lost or error
        self._wake.set()

    async def batches(self) -> AsyncIterator[Sequence[Message | Gap]]:
        """Whatever has been heard since, until the generation is over."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._items = self._items, []
            if batch:
                yield batch
            if self._lost is not None:
                raise self._lost


class _Command:
    """A SUBSCRIBE or its like, until the server has confirmed every name; a PING has none."""

    def __init__(self, word: str, names: Collection[str] = ()) -> None:
        self.word = word
        self.packed = pack(word.encode(), *(name.encode() for name in names))
        self.names = set(names)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Listening:
    """One listening connection: a task that reads, and what waits for its answers.

    `live` and `were_live` are names by kind: "" channels, "p" patterns, "s" sharded channels.
    `lost` is called once, when the connection is, `moved` when the server ends the subscription
    to a sharded channel, because the slot of it has gone elsewhere.
    """

    def __init__(
        self,
        server: Server,
        connection: AbstractConnection,
        heard: Heard,
        *,
        live: dict[str, set[str]],
        were_live: dict[str, set[str]],
        lost: Callable[[ConnectionLostError], None],
        moved: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._name = str(server)
        self._timeout = server.timeout
        self._connection = connection
        self._heard = heard
        self._live = live
        self._were_live = were_live
        self._tell_lost = lost
        self._tell_moved = moved
        self._commands: deque[_Command] = deque()
        self._last = time.monotonic()
        self._lost: Exception | None = None
        self._tasks = [
            asyncio.create_task(self._guard(work), name="broadcaster-redis")
            for work in (self._read, self._watch)
        ]

    async def send(self, word: str, *groups: Collection[str]) -> None:
        """Send a command for each group of names, and wait until the server has confirmed all."""
        if self._lost is not None:
            raise self._ended(self._lost)
        commands = [_Command(word, names) for names in groups]
        try:
            await self._write(commands)
        except (RedisError, OSError) as error:
            self._lose(error)
        done = (command.done for command in commands)
        for outcome in await asyncio.gather(*done, return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def _write(self, commands: Sequence[_Command]) -> None:
        self._commands.extend(commands)
        packed = [command.packed for command in commands]
        try:
            async with asyncio.timeout(self._timeout):
                await self._connection.send_packed_command(packed, check_health=False)
        except TimeoutError:
            raise RedisTimeoutError(f"takes nothing for {self._timeout:g} s") from None

    async def _guard(self, work: Any) -> None:
        try:
            await work()
        except (RedisError, OSError) as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        first, self._lost = self._lost is None, self._lost or error
        for command in self._commands:
            if command.names and not command.done.done():
                command.done.set_exception(self._ended(error))
        self._commands.clear()
        if first:
            self._tell_lost(self._ended(error))

    def _ended(self, error: Exception) -> ConnectionLostError:
        ended = ConnectionLostError(f"{self._name}: {error}")
        ended.__cause__ = error
        return ended

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
            case [b"message" | b"smessage", bytes(channel), bytes(data)]:
                self._heard.add(Message(_text(channel), data))
            case [b"pmessage", bytes(pattern), bytes(channel), bytes(data)]:
                self._heard.add(Message(_text(channel), data, None, _text(pattern)))
            case [b"subscribe" | b"psubscribe" | b"ssubscribe" as word, bytes(name), _]:
                self._confirm(_KINDS[word], _text(name))
            case [b"unsubscribe" | b"punsubscribe" | b"sunsubscribe" as word, bytes(name), _]:
                self._leave(_KINDS[word.replace(b"un", b"", 1)], _text(name))
            case b"PONG" | [b"pong", _]:
                self._settle("")
            case _:
                pass

    def _confirm(self, kind: str, name: str) -> None:
        self._live[kind].add(name)
        if name in self._were_live[kind]:
            self._were_live[kind].discard(name)
            self._heard.add(Gap(name, "reconnected"))
        self._settle(name)

    def _leave(self, kind: str, name: str) -> None:
        self._live[kind].discard(name)
        waiting = next((command for command in self._commands if command.names), None)
        if waiting is not None and waiting.word in _LEAVING and name in waiting.names:
            self._settle(name)
        else:  # nobody asked for it
            self._tell_moved(name)

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
                refusal = ConnectionLostError if isinstance(error, ELSEWHERE) else BackendError
                command.done.set_exception(refusal(f"{self._name}: {error}"))

    async def _watch(self) -> None:
        """Notice a server, or a network, that is silent without closing the connection."""
        while True:
            await asyncio.sleep(self._last + _QUIET - time.monotonic())
            asked = time.monotonic()
            if asked - self._last < _QUIET:
                continue
            await self._write([_Command("PING")])
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
