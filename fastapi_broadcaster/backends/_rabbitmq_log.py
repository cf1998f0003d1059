"""How `amqp-stream://` reads its log: pages, over connections that nobody else uses."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelNotFoundEntity

from fastapi_broadcaster.backends._rabbitmq import Link, Server, is_missing, reason, within
from fastapi_broadcaster.exceptions import (
    BackendUnavailableError,
    ConnectionLostError,
    HistoryLostError,
)
from fastapi_broadcaster.messages import Message

_IDLE = 8  # connections that are kept
_CREDIT = 250  # deliveries between two acknowledgements
SILENCE = 1.0  # seconds without an entry that should be there until the log counts as lost
_SLACK = 16  # offsets that may hold no message, at least: the server uses some for itself

Start = str | int | datetime
_Skip = Callable[[DeliveredMessage], Coroutine[Any, Any, None]]


class Pages:
    """Reads pages of at most `limit` messages, oldest first."""

    def __init__(self, server: Server, queue_of: Callable[[str], str]) -> None:
        self._server = server
        self._queue_of = queue_of
        self._idle: list[_Shelf] = []
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        while self._idle:
            await self._idle.pop().link.close()

    async def after(self, channel: str, offset: int | None, limit: int) -> list[Message]:
        """The page behind an offset, whose own entry comes first and proves that all is there."""
        if offset is None:
            return await self._whole(channel, await self._read(channel, "first", limit))
        if offset < 0:  # it was empty then
            page = await self._read(channel, 0, limit)
            if page and offset_of(page[0]) > 0:
                raise HistoryLostError("expired", kept={})
            return await self._whole(channel, page)
        page = await self._read(channel, offset, limit + 1)
        if not page:
            await asyncio.sleep(SILENCE)  # a copy on another server may be behind
            page = await self._read(channel, offset, limit + 1)
        if not page:
            raise HistoryLostError("reset", kept={})
        if offset_of(page[0]) != offset:
            raise HistoryLostError("expired", kept={})
        return (await self._whole(channel, page))[1:]

    async def _whole(self, channel: str, page: list[Message]) -> list[Message]:
        """The page, unless something in the midst of it was trimmed while it was read.

        Offsets without a message are holes, if what stands before the first of them is still there.
        """
        for one, other in pairwise(page):
            if offset_of(other) != offset_of(one) + 1:
                if not await self.holds(channel, offset_of(one)):
                    raise HistoryLostError("expired", kept={})
                break
        return page

    async def holds(self, channel: str, offset: int) -> bool:
        """Whether the log still has this entry, and so all that came after it."""
        page = await self._read(channel, offset, 1)
        return bool(page) and offset_of(page[0]) == offset

    async def since(self, channel: str, since: datetime, limit: int) -> list[Message]:
        """The server finds the block of entries; those that tell their time are filtered."""
        start = since.astimezone(UTC)
        earliest = start.timestamp()
        page = await self._read(
            channel,
            start.replace(microsecond=0),
            limit,
            wanted=lambda message: message.time is None or message.time >= earliest,
        )
        return await self._whole(channel, page)

    async def newest(self, channel: str, limit: int) -> list[Message]:
        """The last block of entries, and what is missing from before it."""
        tail = await self._read(channel, "last", math.inf)
        if len(tail) >= limit or not tail:
            return tail[-limit:]
        return await self._before(channel, offset_of(tail[0]), limit - len(tail)) + tail

    async def before(self, channel: str, offset: int, limit: int) -> list[Message]:
        tail = await self._read(channel, "last", math.inf)
        if not tail:
            return []
        return await self._before(channel, min(offset, offset_of(tail[-1]) + 1), limit)

    async def _before(self, channel: str, end: int, limit: int) -> list[Message]:
        """Begin to read where that many messages should begin, else further back."""
        width, floor = limit + limit // 8 + _SLACK, 0
        while end > 0:
            start = max(floor, end - width)
            page = await self._read(channel, start, math.inf, end=end)
            if len(page) >= limit or start <= floor:
                return page[-limit:]
            if not floor:
                first = await self._read(channel, "first", 1)
                floor = offset_of(first[0]) if first else 0
            width *= 4
        return []

    # -- over the wire ----------------------------------------------------------------------

    async def _read(
        self,
        channel: str,
        start: Start,
        count: float,
        *,
        end: float = math.inf,
        wanted: Callable[[Message], bool] = lambda message: True,
    ) -> list[Message]:
        """The first `count` wanted messages from there to the end of the log; raises our errors."""
        queue = self._queue_of(channel)
        while True:
            reused = bool(self._idle)
            try:
                shelf = self._idle.pop() if reused else _Shelf(await self._server.reopen())
            except ConnectionLostError as error:
                raise BackendUnavailableError(str(error)) from error
            reading = _Reading(channel, count, end, wanted)
            try:
                with self._server.errors():
                    found = await shelf.read(queue, start, reading)
            except BaseException as error:
                await shelf.link.abort()
                if not isinstance(error, ConnectionLostError):
                    raise
                if reused:
                    continue
                raise BackendUnavailableError(str(error)) from error
            if self._closed or len(self._idle) >= _IDLE:
                await shelf.link.close()
            else:
                self._idle.append(shelf)
            return found


class _Reading:
    """What has been read of a page."""

    def __init__(
        self, channel: str, count: float, end: float, wanted: Callable[[Message], bool]
    ) -> None:
        self._channel = channel
        self._count = count
        self._end = end
        self._wanted = wanted
        self.found: list[Message] = []
        self.is_full = False
        self.tag = 0
        self.deliveries = 0

    async def take(self, delivered: DeliveredMessage) -> None:
        self.tag = delivered.delivery_tag or 0
        self.deliveries += 1
        message = message_of(self._channel, delivered)
        if len(self.found) >= self._count or offset_of(message) >= self._end:
            self.is_full = True
        elif self._wanted(message):
            self.found.append(message)
            self.is_full = len(self.found) >= self._count

    async def skip(self, delivered: DeliveredMessage) -> None:
        """What is not for this page, but acknowledged with it."""
        self.tag = delivered.delivery_tag or 0

    @property
    def credit(self) -> int:
        return int(min(self._count, _CREDIT))


class _Shelf:
    """A connection for pages, with one channel that consumes one stream at a time."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._channel: AbstractChannel | None = None

    async def read(self, queue: str, start: Start, reading: _Reading) -> list[Message]:
        """Consume up to the end of the log: an answer on the same channel comes behind it."""
        channel = self._channel
        if channel is None or channel.is_closed:
            channel = self._channel = await self.link.channel()
        await within(channel.basic_qos(prefetch_count=reading.credit))
        try:
            consumer = await within(
                channel.basic_consume(queue, reading.take, arguments={"x-stream-offset": start})
            )
        except ChannelNotFoundEntity as error:
            if is_missing(error):
                return []
            raise ConnectionLostError(f"{self.link.server}: {reason(error)}") from error
        await within(channel.basic_qos(prefetch_count=reading.credit))
        if not reading.deliveries:
            await begun(channel, queue, reading.skip)
        acknowledged = 0
        while True:
            await within(channel.basic_qos(prefetch_count=reading.credit))
            if reading.is_full or reading.deliveries - acknowledged < reading.credit:
                break
            acknowledged = reading.deliveries
            await channel.basic_ack(reading.tag, multiple=True, wait=False)
        await within(channel.basic_cancel(consumer.consumer_tag or ""))
        if reading.deliveries > acknowledged:
            await channel.basic_ack(reading.tag, multiple=True, wait=False)
        return reading.found


async def begun(channel: AbstractChannel, queue: str, skip: _Skip) -> None:
    """See to it that whoever consumes has the first entry, if there is one, with the next answer.

    It comes when the process that writes the stream gets to it, which may be behind other answers.
    To begin once more asks that process too, and is done when it has got there.
    """
    other = await within(channel.basic_consume(queue, skip, arguments={"x-stream-offset": "next"}))
    await within(channel.basic_cancel(other.consumer_tag or ""))


def message_of(channel: str, delivered: DeliveredMessage) -> Message:
    """A delivery from a stream: the offset, and the time where the publisher told it."""
    properties = delivered.header.properties
    headers: dict[str, Any] = dict(properties.headers or {})
    time: float | None = None
    if isinstance(milliseconds := headers.get("timestamp_in_ms"), int):
        time = milliseconds / 1000
    elif isinstance(properties.timestamp, datetime):
        time = properties.timestamp.timestamp()
    return Message(channel, delivered.body, ("", int(headers["x-stream-offset"])), time=time)


def offset_of(message: Message) -> int:
    assert message.position is not None
    return message.position[1]
