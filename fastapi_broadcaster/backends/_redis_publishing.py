"""Publishing over one connection to one Redis: a batch is one write, each reply an outcome."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection

from fastapi_broadcaster.backends._reasons import reason
from fastapi_broadcaster.backends._redis import ELSEWHERE, LOST, Server, as_map, exchange, pack
from fastapi_broadcaster.backends.base import Outcome
from fastapi_broadcaster.exceptions import (
    BackendError,
    BackendUnavailableError,
    ConnectionLostError,
    MessageTooLargeError,
)
from fastapi_broadcaster.messages import Message

_LIMIT = b"proto-max-bulk-len"
_TAKEN = 1 << 20  # bytes that no server can be told to refuse
_Send = Callable[[AbstractConnection, Sequence[Message]], Awaitable[list[Outcome]]]


class TooLargeError(MessageTooLargeError, BackendError):
    """The server takes no messages of that size."""


class Limit:
    """Keeps from a server what it does not take: it hangs up on a message that is too large.

    Asked is only whoever sends what a server may refuse; unknown if this user may not ask.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._largest: float | None = None

    async def send(
        self, connection: AbstractConnection, messages: Sequence[Message], send: _Send
    ) -> list[Outcome]:
        """Send those that are taken, once; raises `ConnectionLostError` before that."""
        if all(len(message.data) <= _TAKEN for message in messages):
            return await send(connection, messages)
        if self._largest is None:
            self._largest = await self._ask(connection)
        most = self._largest
        fitting = [message for message in messages if len(message.data) <= most]
        outcomes = iter(await send(connection, fitting) if fitting else ())
        return [
            next(outcomes) if len(message.data) <= most else self._refusal(message)
            for message in messages
        ]

    async def _ask(self, connection: AbstractConnection) -> float:
        asked = pack(b"CONFIG", b"GET", _LIMIT)
        try:
            [reply] = await exchange(connection, [asked], self._server.timeout)
        except LOST as error:
            raise ConnectionLostError(f"{self._server}: {reason(error)}") from error
        known = {} if isinstance(reply, Exception) else as_map(reply)
        return int(known.get(_LIMIT, 0)) or math.inf

    def _refusal(self, message: Message) -> BackendError:
        return TooLargeError(
            f"{self._server} takes messages of at most {self._largest:,} bytes, "
            f"not {len(message.data):,} ({_LIMIT.decode()})"
        )


class Publishing:
    """Publishes with PUBLISH or SPUBLISH; the connection is made when it is needed."""

    def __init__(self, server: Server, command: bytes) -> None:
        self._server = server
        self._command = command
        self._limit = Limit(server)
        self._connection: AbstractConnection | None = None
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        """Connect, with the driver's own errors."""
        self._connection = self._server.connection()
        await self._server.open(self._connection)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def reach(self) -> None:
        """Have a connection that is not known to be dead. Raises `ConnectionLostError`."""
        async with self._turn:
            await self._revived()

    async def _revived(self) -> AbstractConnection:
        connection = self._connection = self._connection or self._server.connection()
        await self._server.revive(connection)
        return connection

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        """Send the messages once; one outcome for each, as `Backend.publish` has them."""
        async with self._turn:
            connection = await self._revived()
            return await self._limit.send(connection, messages, self._send)

    async def _send(
        self, connection: AbstractConnection, messages: Sequence[Message]
    ) -> list[Outcome]:
        commands = [
            pack(self._command, message.channel.encode(), message.data) for message in messages
        ]
        replies: list[Any] = []
        failure: BackendError | None = None
        try:
            with self._server.errors(maybe_published=True):
                await exchange(connection, commands, self._server.timeout, replies)
        except BackendUnavailableError as error:
            if not replies:
                raise
            failure = error
        outcomes = [self._outcome(reply) for reply in replies]
        return outcomes + [failure] * (len(messages) - len(outcomes))

    def _outcome(self, reply: Any) -> Outcome:
        if isinstance(reply, ELSEWHERE):
            return ConnectionLostError(f"{self._server}: {reply}")
        if isinstance(reply, Exception):
            return BackendError(f"{self._server} refused the message: {reply}")
        return None
