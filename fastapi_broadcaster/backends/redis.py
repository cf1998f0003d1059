"""`redis://`: PUBLISH, SUBSCRIBE and PSUBSCRIBE. No log: an outage is told as a gap."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import ClassVar

from redis.asyncio import Redis

from fastapi_broadcaster.backends._redis import Server, is_cluster, take_options
from fastapi_broadcaster.backends._redis_publishing import Publishing
from fastapi_broadcaster.backends._redis_pubsub import Heard, Listening
from fastapi_broadcaster.backends.base import Outcome, PatternBackend
from fastapi_broadcaster.backends.redis_cluster import RedisClusterBackend
from fastapi_broadcaster.exceptions import ConnectionLostError
from fastapi_broadcaster.messages import Cursor, Gap, Message

_CHUNK = 1_000  # names in one command


def from_url(url: str) -> "RedisBackend | RedisClusterBackend":
    """Read a `redis://` or `rediss://` URL: `?cluster=true`, and the options of redis-py's own."""
    ours, plain = take_options(url, "cluster")
    server = Server.from_url(plain)
    return RedisClusterBackend.of(server) if is_cluster(ours) else RedisBackend.of(server)


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
        self._publishing = Publishing(server, b"PUBLISH")
        self._listening: Listening | None = None
        self._live: dict[str, set[str]] = {"": set(), "p": set()}  # names, and patterns
        self._were_live: dict[str, set[str]] = {"": set(), "p": set()}

    def __str__(self) -> str:
        return str(self._server)

    async def connect(self) -> None:
        with self._server.errors():
            await self._publishing.open()

    async def disconnect(self) -> None:
        await self._publishing.close()
        for names in (*self._live.values(), *self._were_live.values()):
            names.clear()

    async def reach(self) -> None:
        await self._publishing.reach()

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        return await self._publishing.publish(messages)

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
        chunks = [names[at : at + _CHUNK] for at in range(0, len(names), _CHUNK)]
        await listening.send(command, *chunks)

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        connection = self._server.connection()
        await self._server.revive(connection)
        heard = Heard()
        listening = Listening(
            self._server,
            connection,
            heard,
            live=self._live,
            were_live=self._were_live,
            lost=heard.lose,
        )
        self._listening = listening
        try:
            yield ()
            async for batch in heard.batches():
                yield batch
        finally:
            self._listening = None
            await listening.close()
            for kind, names in self._live.items():
                self._were_live[kind] |= names
                names.clear()
