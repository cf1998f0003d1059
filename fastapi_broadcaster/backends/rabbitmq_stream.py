"""`amqp-stream://`: a RabbitMQ stream queue per channel, which is its log. RabbitMQ 3.9 or newer.

The queue of a channel is `prefix` and its name; another service publishes to it through the default
exchange, and consumes it with `x-stream-offset`.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime

from pamqp.commands import Basic

from fastapi_broadcaster.backends._rabbitmq import Link, Server, read_url
from fastapi_broadcaster.backends._rabbitmq_log import Pages
from fastapi_broadcaster.backends._rabbitmq_publishing import Fate, Letter, Publishing, Result
from fastapi_broadcaster.backends._rabbitmq_reader import Reader
from fastapi_broadcaster.backends._rabbitmq_streams import Declaring, Settings, Standing
from fastapi_broadcaster.backends.base import HistoryBackend, Outcome
from fastapi_broadcaster.exceptions import (
    BackendError,
    BackendUnavailableError,
    ChannelNameError,
    ConnectionLostError,
    HistoryLostError,
    UnsupportedError,
)
from fastapi_broadcaster.messages import Cursor, Gap, Message

_START = "start"
_MOST = 10_000  # streams that are remembered
_QUEUE = re.compile("[a-zA-Z0-9_.:@#,/+ -]*")  # what the driver sends as the name of a queue


def from_url(url: str) -> "RabbitMQStreamBackend":
    """`amqp-stream://host/vhost?max_bytes=10000000&max_age=3600&prefix=app.`, and the driver's."""
    ours = {"max_bytes": int, "max_age": int, "segment_bytes": int, "prefix": str}
    server, options = read_url(url, ours)
    return RabbitMQStreamBackend.of(server, Settings(**options))


class RabbitMQStreamBackend(HistoryBackend):
    """Keeps about `max_bytes` of each channel, and hears all live from the log.

    `max_age` (seconds) lets messages go earlier. The server trims whole segments of
    `segment_bytes`, an eighth of `max_bytes` by default. Limits hold for streams that are made;
    those of existing ones stay. A receipt has no id: the server does not tell a publisher where a
    message stands. A stream that was deleted and made again is noticed as long as it is shorter
    than before.
    """

    own_positions = True

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "",
        max_bytes: int = 10_000_000,
        max_age: int | None = None,
        segment_bytes: int | None = None,
    ) -> None:
        settings = Settings(
            prefix=prefix, max_bytes=max_bytes, max_age=max_age, segment_bytes=segment_bytes
        )
        self._setup(Server(url), settings)

    @classmethod
    def of(cls, server: Server, settings: Settings) -> "RabbitMQStreamBackend":
        """Make one for a server that a URL names."""
        backend = cls.__new__(cls)
        backend._setup(server, settings)
        return backend

    def _setup(self, server: Server, settings: Settings) -> None:
        self._server = server
        self._settings = settings
        self._publishing = Publishing(server, self._prepare)
        self._declaring: Declaring | None = None
        self._made: set[str] = set()  # streams that were there once
        self._pages: Pages | None = None
        self._lock = asyncio.Lock()
        self._standing = Standing()
        self._reader: Reader | None = None

    def __str__(self) -> str:
        return str(self._server)

    def check_name(self, name: str) -> None:
        queue = self._settings.queue(name)
        if _QUEUE.fullmatch(queue) is None:
            raise ChannelNameError(
                f"{self}: the name of a stream has letters of ASCII, digits, spaces and "
                f"- _ . : @ # , / + only, unlike {name[:50]!r}"
            )
        most = self._server.stream_name_bytes
        if len(queue) > most:
            raise ChannelNameError(
                f"{self}: the name of a stream has at most {most} bytes, "
                f"this one has {len(queue)}: shorten it"
            )
        if queue.startswith("amq."):
            raise ChannelNameError(f"{self}: names that begin with amq. are RabbitMQ's own")

    async def connect(self) -> None:
        self._lock = asyncio.Lock()
        await self._publishing.open()
        self._pages = Pages(self._server, self._settings.queue)

    async def disconnect(self) -> None:
        await self._publishing.close()
        pages, self._pages = self._pages, None
        if pages is not None:
            await pages.close()
        self._standing = Standing()
        self._made.clear()

    async def _prepare(self, link: Link) -> None:
        found = re.match(r"(\d+)\.(\d+)", link.version)
        if found is None or (int(found[1]), int(found[2])) < (3, 9):
            raise UnsupportedError(f"{self} needs RabbitMQ 3.9 or newer, not {link.version}")
        self._declaring = Declaring(link, self._settings, self._lock)
        await self._declaring.open()

    # -- publishing -------------------------------------------------------------------------

    async def reach(self) -> None:
        await self._publishing.ready()

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        letters = [self._letter(message) for message in messages]
        results: list[Result] = [None] * len(letters)
        waiting = list(range(len(letters)))
        for _ in range(2):  # what comes back because its stream was deleted is sent once more
            await self._publishing.ready()
            refusals = await self._make({letters[at].key for at in waiting} - self._made)
            for at in waiting:
                results[at] = refusals.get(letters[at].key)
            await self._send(letters, results, [at for at in waiting if results[at] is None])
            waiting = [at for at in waiting if results[at] is Fate.RETURNED]
            if not waiting:
                break
            self._made.difference_update(letters[at].key for at in waiting)
        lost = [result for result in results if isinstance(result, ConnectionLostError)]
        if lost and len(lost) == len(results):
            raise lost[0]
        return [self._outcome(result) for result in results]

    def _letter(self, message: Message) -> Letter:
        now = time.time()
        properties = Basic.Properties(
            delivery_mode=2,
            timestamp=datetime.fromtimestamp(int(now), UTC),
            headers={"timestamp_in_ms": int(now * 1000)},
        )
        key = self._settings.queue(message.channel)
        return Letter(data=message.data, key=key, mandatory=True, properties=properties)

    async def _make(self, queues: Collection[str]) -> Mapping[str, BackendError]:
        """Make streams before they are published to; returns why some cannot be made.

        A server breaks the connection of who publishes to a stream that another one is making.
        """
        if not queues:
            return {}
        assert self._declaring is not None
        refusals = await self._declaring.declare_each(queues)
        if len(self._made) > _MOST:
            self._made.clear()
        self._made.update(queue for queue in queues if queue not in refusals)
        return refusals

    async def _send(
        self, letters: Sequence[Letter], results: list[Result], places: Sequence[int]
    ) -> None:
        try:
            sent = await self._publishing.send([letters[at] for at in places])
        except ConnectionLostError as error:
            sent = [error] * len(places)
        for at, result in zip(places, sent, strict=True):
            results[at] = result

    def _outcome(self, result: Result) -> Outcome:
        if isinstance(result, ConnectionLostError):
            return BackendUnavailableError(f"{result}; nothing was published")
        if isinstance(result, Fate):
            return BackendError(f"{self} refused the message: {result.value}")
        return result

    # -- listening --------------------------------------------------------------------------

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, Cursor]:
        if self._reader is None:
            raise ConnectionLostError(f"{self} is not connected")
        await self._reader.join(channels)
        return {channel: {"": self._standing.positions[channel]} for channel in channels}

    async def unsubscribe(self, channels: Collection[str]) -> None:
        if self._reader is not None:
            await self._reader.leave(channels)
        for channel in channels:
            self._standing.positions.pop(channel, None)

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        if self._pages is None:
            raise ConnectionLostError(f"{self} is not connected")
        link = await self._server.reopen()
        declaring = Declaring(link, self._settings, self._lock)
        reader = Reader(link, declaring, self._pages, self._standing)
        try:
            await reader.open()
            self._reader = reader
            yield ()
            async for batch in reader.batches():
                yield batch
        finally:
            self._reader = None
            await reader.close()

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
            return await pages.after(channel, after.get(""), limit)
        if since is not None:
            return await pages.since(channel, since, limit)
        if before is not None:
            return await pages.before(channel, before.get("", 0), limit)
        return await pages.newest(channel, limit)

    def parse(self, id: str) -> Cursor:
        if id == _START:
            return {}
        if re.fullmatch(r"-1|0|[1-9][0-9]{0,17}", id) is None:
            raise HistoryLostError("reset", kept={})
        return {"": int(id)}

    def format(self, cursor: Cursor) -> str:
        return str(cursor[""]) if "" in cursor else _START
