"""`redis-stream://`: a Redis stream per channel, which is its log. Redis 7.0 or newer.

A channel's key is `prefix` and its name; an entry is `XADD key * message <payload>`, as
encode/broadcaster writes it and `redis-cli` can. Of a foreign entry the field `message` is read,
else `data`, else its first one.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import BusyLoadingError, ReadOnlyError

from fastapi_broadcaster.backends._redis import (
    Server,
    about_server,
    exchange,
    is_cluster,
    pack,
    take_options,
)
from fastapi_broadcaster.backends._redis_listening import Listening, Standing
from fastapi_broadcaster.backends._redis_log import format_id, key_of, parse_id
from fastapi_broadcaster.backends._redis_pages import Pages
from fastapi_broadcaster.backends._redis_publishing import Limit
from fastapi_broadcaster.backends._redis_reader import OURS, Settings
from fastapi_broadcaster.backends.base import HistoryBackend, Outcome
from fastapi_broadcaster.exceptions import (
    BackendError,
    BackendUnavailableError,
    ChannelNameError,
    ConnectionLostError,
    UnsupportedError,
)
from fastapi_broadcaster.messages import Cursor, Gap, Message

_NOT_NOW = (BusyLoadingError, ReadOnlyError)  # the server takes nothing, but may soon


def from_url(url: str) -> "RedisStreamBackend":
    """`redis-stream://host:6379/0?maxlen=10000&ttl=3600&prefix=app:`, and redis-py's options."""
    scheme = url.partition(":")[0]
    ours, plain = take_options(url, "maxlen", "ttl", "prefix", "cluster")
    if is_cluster(ours):
        raise UnsupportedError(
            f"{scheme}:// reads many streams at once, which a Redis Cluster refuses: use "
            f"one Redis for it, or {scheme.replace('-stream', '')}:// without history"
        )
    try:
        maxlen, ttl = int(ours.get("maxlen", 10_000)), ours.get("ttl")
        seconds = float(ttl) if ttl else None
    except ValueError:
        raise ValueError(f"{scheme}://: maxlen and ttl must be numbers") from None
    server = Server.from_url(plain.replace("-stream", "", 1), scheme="redis-stream")
    return RedisStreamBackend.of(server, maxlen=maxlen, ttl=seconds, prefix=ours.get("prefix", ""))


class RedisStreamBackend(HistoryBackend):
    """Keeps about the newest `maxlen` messages of each channel, and hears all live from the log.

    `maxlen` is a lower bound: Redis trims by whole nodes. With `ttl` (seconds) the log of a
    channel that nobody publishes to goes after that time. `prefix` is put before every key.
    `client=` takes the user's own `redis.asyncio.Redis`, whose address, credentials and TLS are
    used; the connections are this backend's own, because it never sends anything twice.

    Not noticed are entries that others remove one by one (XDEL) or trim to fewer than 64 (XTRIM),
    and the removal of a single key that is made anew before the next look at it.
    """

    own_positions = True

    def __init__(
        self,
        *,
        client: Redis,
        maxlen: int = 10_000,
        ttl: float | None = None,
        prefix: str = "",
    ) -> None:
        self._setup(Server.of(client, scheme="redis-stream"), maxlen, ttl, prefix)

    @classmethod
    def of(
        cls, server: Server, *, maxlen: int, ttl: float | None, prefix: str
    ) -> "RedisStreamBackend":
        """Make one for a server that a URL names."""
        backend = cls.__new__(cls)
        backend._setup(server, maxlen, ttl, prefix)
        return backend

    def _setup(self, server: Server, maxlen: int, ttl: float | None, prefix: str) -> None:
        if maxlen < 1 or (ttl is not None and ttl < 0.001):
            raise ValueError("redis-stream://: maxlen and ttl must be positive")
        milliseconds = None if ttl is None else round(ttl * 1000)
        self._server = server
        self._settings = Settings(prefix=prefix, maxlen=maxlen, ttl=milliseconds)
        self._publishing: AbstractConnection | None = None
        self._limit = Limit(server)
        self._pages: Pages | None = None
        self._standing = Standing()
        self._listening: Listening | None = None

    def __str__(self) -> str:
        return str(self._server)

    def check_name(self, name: str) -> None:
        if name.startswith(OURS):
            raise ChannelNameError(f"{self}: names that begin with {OURS} are the backend's own")

    async def connect(self) -> None:
        connection = self._publishing = self._server.connection()
        with self._server.errors():
            await self._server.open(connection)
            [hello] = await exchange(connection, [pack(b"HELLO")], self._server.timeout)
        self._check_server(hello)
        self._pages = Pages(self._server, self._settings)

    def _check_server(self, hello: Any) -> None:
        """Refuse a server that lacks what the proofs stand on."""
        about = about_server(self, hello)
        if about.get(b"mode") == b"cluster":
            raise UnsupportedError(f"{self} is a Redis Cluster, which cannot read many streams")

    async def disconnect(self) -> None:
        connection, self._publishing = self._publishing, None
        if connection is not None:
            await connection.disconnect(nowait=True)
        pages, self._pages = self._pages, None
        if pages is not None:
            await pages.close()
        await asyncio.sleep(0)  # sockets are closed in the next turn of the loop
        self._standing = Standing()

    # -- publishing -------------------------------------------------------------------------

    async def reach(self) -> None:
        await self._revived()

    async def _revived(self) -> AbstractConnection:
        connection = self._publishing
        if connection is None:
            connection = self._publishing = self._server.connection()
        await self._server.revive(connection)
        return connection

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        return await self._limit.send(await self._revived(), messages, self._send)

    async def _send(
        self, connection: AbstractConnection, messages: Sequence[Message]
    ) -> list[Outcome]:
        replies: list[Any] = []
        failure: BackendError | None = None
        try:
            with self._server.errors(maybe_published=True):
                commands = self._commands(messages)
                await exchange(connection, commands, self._server.timeout, replies)
        except BackendUnavailableError as error:
            if not replies:
                raise
            failure = error
        if all(isinstance(reply, _NOT_NOW) for reply in replies[: len(messages)]):
            await connection.disconnect(nowait=True)
            raise ConnectionLostError(f"{self} takes no messages: {replies[0]}")
        outcomes = [self._outcome(reply) for reply in replies[: len(messages)]]
        return outcomes + [failure] * (len(messages) - len(outcomes))

    def _commands(self, messages: Sequence[Message]) -> list[bytes]:
        key, maxlen = self._settings.key, b"%d" % self._settings.maxlen
        trim = (b"MAXLEN", b"~", maxlen, b"*", b"message")
        commands = [
            pack(b"XADD", key(message.channel), *trim, message.data) for message in messages
        ]
        if self._settings.ttl is not None:
            ttl = b"%d" % self._settings.ttl
            channels = dict.fromkeys(message.channel for message in messages)
            commands += [pack(b"PEXPIRE", key(channel), ttl) for channel in channels]
        return commands

    def _outcome(self, reply: Any) -> Outcome:
        if isinstance(reply, bytes):
            return "", key_of(reply)
        return BackendError(f"{self} refused the message: {reply}")

    # -- listening --------------------------------------------------------------------------

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, Cursor]:
        if self._listening is None:
            raise ConnectionLostError(f"{self} is not connected")
        await self._listening.join(channels)
        places = self._standing.places
        return {channel: {"": places[channel].position} for channel in channels}

    async def unsubscribe(self, channels: Collection[str]) -> None:
        places = self._standing.places
        left = [places.pop(channel) for channel in channels if channel in places]
        if self._listening is not None:
            await self._listening.leave(left)

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        listening = Listening(self._server, self._settings, self._standing)
        try:
            await listening.open()
            self._listening = listening
            yield ()
            async for batch in listening.batches():
                yield batch
        finally:
            self._listening = None
            await listening.close()

    # -- the log ----------------------------------------------------------------------------

    async def history(
        self,
        channel: str,
        *,
        after: Cursor | None = None,
        before: Cursor | None = None,
        since: datetime | None = None,
        limit: int,
    ) -> list[Message]:
        pages = self._pages
        if pages is None:
            raise BackendUnavailableError(f"{self} is not connected")
        if after is not None:
            return await pages.after(channel, after.get("", 0), limit)
        if since is not None:
            return await pages.since(channel, since, limit)
        if before is not None:
            return await pages.before(channel, before.get("", 0), limit)
        return await pages.newest(channel, limit)

    def parse(self, id: str) -> Cursor:
        position = parse_id(id)
        return {"": position} if position else {}

    def format(self, cursor: Cursor) -> str:
        return format_id(cursor.get("", 0))
