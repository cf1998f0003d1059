"""Reading pages of a log, with a few consumers of their own."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime

from fastapi_broadcaster.backends import _kafka_driver as driver
from fastapi_broadcaster.backends._kafka_cluster import Cluster, Topic
from fastapi_broadcaster.backends._kafka_driver import Consumer, partition_of
from fastapi_broadcaster.backends._kafka_log import Extent, Naming, beginnings, merged
from fastapi_broadcaster.backends._kafka_server import Server
from fastapi_broadcaster.exceptions import ConnectionLostError, HistoryLostError
from fastapi_broadcaster.messages import Cursor, Message, behind

_CONSUMERS = 4  # at once
_IDLE = 5.0  # seconds until those that are not used are closed
_POLL = 200  # milliseconds
_STEP = 256  # records of a shared topic that are looked through at first
_Spans = Mapping[int, tuple[int, int]]  # of each partition: from, up to and without


class Pages:
    """Reads the log of one channel at a time; several such reads at once share the consumers."""

    def __init__(self, server: Server, naming: Naming, cluster: Cluster, *, scan: int) -> None:
        self._server = server
        self._naming = naming
        self._cluster = cluster
        self._scan = scan
        self._slots = asyncio.Semaphore(_CONSUMERS)
        self._idle: list[Consumer] = []
        self._later: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        if self._later is not None:
            self._later.cancel()
        if self._closing is not None:
            await asyncio.wait([self._closing])
        await self._close_idle()

    async def _close_idle(self) -> None:
        while self._idle:
            await driver.close_consumer(self._idle.pop())

    def _close_soon(self) -> None:
        """Close consumers that nobody needs, unless somebody reads again before long."""

        def close() -> None:
            self._closing = asyncio.create_task(self._close_idle(), name="broadcaster-kafka-idle")

        if self._later is not None:
            self._later.cancel()
        self._later = asyncio.get_running_loop().call_later(_IDLE, close)

    async def read(
        self,
        channel: str,
        *,
        after: Cursor | None,
        before: Cursor | None,
        since: datetime | None,
        limit: int,
    ) -> list[Message]:
        """See `HistoryBackend.history`; raises `ConnectionLostError` too."""
        name = self._naming.topic_of(channel)
        found = await self._cluster.topics([name])
        if name not in found:
            if after and max(after.values()) >= 0:
                raise HistoryLostError("reset", kept={})
            return []
        while True:
            page = _Page(self, channel, name, found[name], limit)
            await page.look()
            try:
                if after is not None:
                    return await page.after(after)
                if since is not None:
                    return await page.since(since)
                return await page.newest(before)
            except ConnectionLostError as error:
                if not isinstance(error.__cause__, driver.OffsetOutOfRange):
                    raise  # else it was trimmed since it was looked at

    async def offsets(self, name: str, topic: Topic, at: int) -> dict[int, int]:
        found = await self._cluster.offsets({name: topic}, at)
        return {place.partition: offset for place, offset in found.items()}

    @property
    def scan(self) -> int | None:
        """How many records of a partition are looked through, None for a channel's own topic."""
        return None if self._naming.topic is None else self._scan

    async def span(
        self, channel: str, name: str, spans: _Spans, *, limit: int | None = None
    ) -> dict[int, list[Message]]:
        """The channel's messages in these spans, the first `limit` of each partition."""
        found: dict[int, list[Message]] = {partition: [] for partition in spans}
        wanted = {partition: span for partition, span in spans.items() if span[0] < span[1]}
        if not wanted:
            return found
        async with self._consumer() as consumer:
            places = {partition: partition_of(name, partition) for partition in wanted}
            consumer.assign(list(places.values()))
            for partition, (start, _) in wanted.items():
                consumer.seek(places[partition], start)
            most = limit if self.scan is None else None
            moved = asyncio.get_running_loop().time()
            while wanted:
                records = await consumer.getmany(timeout_ms=_POLL, max_records=most)
                now = asyncio.get_running_loop().time()
                moved = now if records else moved
                if now - moved > self._server.timeout:
                    raise TimeoutError
                for place, batch in records.items():
                    _, end = wanted.get(place.partition, (0, 0))
                    kept = found[place.partition]
                    for record in batch:
                        message = self._naming.message(place, record)
                        if record.offset < end and message and message.channel == channel:
                            kept.append(message)
                for partition, (_, end) in list(wanted.items()):
                    place = places[partition]
                    enough = limit is not None and len(found[partition]) >= limit
                    if enough or await consumer.position(place) >= end:
                        del wanted[partition]
                        consumer.pause(place)
        return found

    @asynccontextmanager
    async def _consumer(self) -> AsyncGenerator[Consumer]:
        """A consumer that nobody else uses meanwhile; kept for the next one if nothing failed."""
        async with self._slots:
            with self._server.errors():
                consumer = self._idle.pop() if self._idle else await self._start()
                try:
                    yield consumer
                except BaseException:
                    await driver.close_consumer(consumer)
                    raise
            self._idle.append(consumer)
            self._close_soon()

    async def _start(self) -> Consumer:
        consumer = self._server.consumer()
        try:
            await consumer.start()
        except BaseException:
            await driver.close_consumer(consumer)
            raise
        return consumer


class _Page:
    """One page of one channel."""

    def __init__(self, pages: Pages, channel: str, name: str, topic: Topic, limit: int) -> None:
        self._pages = pages
        self._channel = channel
        self._name = name
        self._topic = topic
        self._limit = limit
        self._extents: dict[int, Extent] = {}

    async def look(self) -> None:
        """Find out what the broker holds."""
        starts = await self._offsets(driver.EARLIEST)
        ends = await self._offsets(driver.LATEST)
        self._extents = {one: Extent(starts[one], max(starts[one], ends[one])) for one in ends}

    async def _offsets(self, at: int) -> dict[int, int]:
        return await self._pages.offsets(self._name, self._topic, at)

    async def _span(self, spans: _Spans, limit: int | None) -> dict[int, list[Message]]:
        return await self._pages.span(self._channel, self._name, spans, limit=limit)

    def _reach(self, partition: int) -> int:
        """The first offset that is looked at."""
        extent, scan = self._extents[partition], self._pages.scan
        return extent.start if scan is None else max(extent.start, extent.end - scan)

    async def after(self, after: Cursor) -> list[Message]:
        following = beginnings(after, self._extents)
        far = {one: self._reach(one) for one in following if following[one] < self._reach(one)}
        if far:
            kept = {str(partition): offset - 1 for partition, offset in far.items()}
            raise HistoryLostError("expired", kept={**after, **kept})
        new = {one: self._reach(one) for one in self._extents if one not in following}
        return await self._forward({**following, **new})

    async def since(self, since: datetime) -> list[Message]:
        found = await self._offsets(max(0, round(since.timestamp() * 1000)))
        following = {
            one: max(self._reach(one), found[one] if found[one] >= 0 else extent.end)
            for one, extent in self._extents.items()
        }
        return await self._forward(following)

    async def _forward(self, following: Mapping[int, int]) -> list[Message]:
        spans = {one: (start, self._extents[one].end) for one, start in following.items()}
        found = await self._span(spans, self._limit)
        return self._told(merged(found.values())[: self._limit], following)

    def _told(self, page: list[Message], begin: Mapping[int, int]) -> list[Message]:
        """Let each message of a page tell where its reader stands in all partitions."""
        if len(self._extents) > 1:
            cursor: Cursor = {str(one): offset - 1 for one, offset in begin.items()}
            for message in page:
                assert message.position is not None
                cursor = message.cursor = behind(message.position, cursor)
        return page

    def _ends(self, before: Cursor | None) -> dict[int, int]:
        """Up to where, and without, a page is read; what a cursor does not tell of came later."""
        if not before:
            return {one: extent.end for one, extent in self._extents.items()}
        own = [*before][-1]
        told = {int(one): at if one == own else at + 1 for one, at in before.items()}
        return {
            one: min(extent.end, told.get(one, extent.start))
            for one, extent in self._extents.items()
        }

    async def newest(self, before: Cursor | None) -> list[Message]:
        ends = self._ends(before)
        tops = dict(ends)
        found: dict[int, list[Message]] = {one: [] for one in tops}
        step = self._limit if self._pages.scan is None else max(self._limit, _STEP)
        while True:
            spans = {
                one: (max(self._reach(one), top - step), top)
                for one, top in tops.items()
                if len(found[one]) < self._limit and top > self._reach(one)
            }
            if not spans:
                page = merged(found.values())[-self._limit :]
                firsts = {
                    int(one.position[0]): one.position[1] for one in reversed(page) if one.position
                }
                return self._told(page, {**ends, **firsts})
            for one, messages in (await self._span(spans, None)).items():
                found[one] = messages + found[one]
                tops[one] = spans[one][0]
            step *= 4
