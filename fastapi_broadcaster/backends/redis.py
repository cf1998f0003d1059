"""`redis://`: PUBLISH, SUBSCRIBE and PSUBSCRIBE. No log: an outage is told as a gap."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, ClassVar

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from fastapi_broadcaster.backends._redis import Server, exchange, pack
from fastapi_broadcaster.backends._redis_pubsub import Listening
from fastapi_broadcaster.backends.base import Outcome, PatternBackend
from fastapi_broadcaster.exceptions import (
    BackendError,
    BackendUnavailableError,
    ConnectionLostError,
)
from fastapi_broadcaster.messages import Cursor, Gap, Message

_CHUNK = 1_000  # names in one command


def from_url(url: str) -> "RedisBackend":
    """Read a `redis://` or `rediss://` URL; options are those of redis-py's own URLs."""
    return RedisBackend.of(Server.from_url(url))


class RedisBackend(PatternBackend):
    """Redis pub/sub over two connections: one listens, one publishes.

    `client=` takes the user's own `redis.asyncio.Redis`, whose address, credentials and TLS are
    used; the connections are this backend's own, because it never sends anything twice.
    """

    tags_patterns: ClassVar[bool] = True

    def __init__(self, *, client: Redis) -> None:
        self._setup(Server.of(client))

    @classmethod
    def of(cls, server: Server) -> "RedisBackend":
        """Make one for a server that a URL names."""
        backend = cls.__new__(cls)
        backend._setup(server)
        return backend

    def _setup(self, server: Server) -> None:
        self._server = server
        self._publishing: AbstractConnection | None = None
        self._listening: Listening | None = None
        self._live: dict[str, set[str]] = {"": set(), "p": set()}  # names, and patterns
        self._were_live: dict[str, set[str]] = {"": set(), "p": set()}

    def __str__(self) -> str:
        return str(self._server)

    async def connect(self) -> None:
        with self._server.errors():
            self._publishing = self._server.connection()
            await self._server.open(self._publishing)

    async def disconnect(self) -> None:
        connection, self._publishing = self._publishing, None
        if connection is not None:
            await connection.disconnect(nowait=True)
        for names in (*self._live.values(), *self._were_live.values()):
            names.clear()

    # -- publishing -------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        connection = self._publishing = self._publishing or self._server.connection()
        await self._server.revive(connection)
        commands = [
            pack(b"PUBLISH", message.channel.encode(), message.data) for message in messages
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
        outcomes = [
            BackendError(f"{self} refused the message: {reply}")
            if isinstance(reply, Exception)
            else None
            for reply in replies
        ]
        return outcomes + [failure] * (len(messages) - len(outcomes))

    # -- listening --------------------------------------------------------------------------

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, Cursor]:
        await self._command("", "SUBSCRIBE", channels, live=False)
        return {}

    async def unsubscribe(self, channels: Collection[str]) -> None:
        self._were_live[""].difference_update(channels)
        await self._command("", "UNSUBSCRIBE", channels, live=True)

    async def psubscribe(self, patterns: Collection[str]) -> None:
        await self._command("p", "PSUBSCRIBE", patterns, live=False)

    async def punsubscribe(self, patterns: Collection[str]) -> None:
        self._were_live["p"].difference_update(patterns)
        await self._command("p", "PUNSUBSCRIBE", patterns, live=True)

    async def _command(
        self, kind: str, command: str, names: Collection[str], *, live: bool
    ) -> None:
        """Send a command about those names that are live, or that are not."""
        listening = self._listening
        if listening is None:
            raise ConnectionLostError(f"{self} is not connected")
        names = [name for name in names if (name in self._live[kind]) == live]
        for at in range(0, len(names), _CHUNK):
            await listening.send(command, names[at : at + _CHUNK])

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        connection = self._server.connection()
        await self._server.revive(connection)
        listening = Listening(self._server, connection, self._live, self._were_live)
        self._listening = listening
        try:
            yield ()
            async for batch in listening.batches():
                yield batch
        finally:
            self._listening = None
            await listening.close()
            for kind, names in self._live.items():
                self._were_live[kind] |= names
                names.clear()
