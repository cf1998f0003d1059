"""One generation of `kafka://`: a consumer that is told where to read, and a watch of brokers."""

import asyncio
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager

from fastapi_broadcaster import _patterns
from fastapi_broadcaster.backends import _kafka_driver as driver
from fastapi_broadcaster.backends._kafka_cluster import Cluster, Topic
from fastapi_broadcaster.backends._kafka_driver import (
    Consumer,
    Record,
    TopicPartition,
    partition_of,
)
from fastapi_broadcaster.backends._kafka_log import merged
from fastapi_broadcaster.backends._kafka_server import Server
from fastapi_broadcaster.backends._kafka_standing import Offsets, Standing
from fastapi_broadcaster.exceptions import BackendError, ConnectionLostError
from fastapi_broadcaster.messages import Cursor, Gap, Message

_POLL = 50  # milliseconds until a loss is looked for
_LOOK = 0.2  # seconds between two looks for new topics, while there are patterns
_CHECK = 3.0  # seconds between two looks at the brokers
_PATIENCE = 3.0  # seconds that they may take to answer


class Listening:
    """Reads what is heard; a gap is told where a log does not go on from where it was read."""

    def __init__(self, server: Server, standing: Standing) -> None:
        self._server = server
        self._standing = standing
        self._naming = standing.naming
        self._cluster = Cluster(server, lost=self._lose)
        self._consumer: Consumer | None = None
        self._read: set[str] = set()  # topics
        self._changing = asyncio.Lock()
        self._told: list[Gap] = []
        self._lost: Exception | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Connect; raises `BackendUnavailableError` or `ConnectionLostError`."""
        await self._cluster.open()
        self._consumer = self._server.consumer()
        with self._server.errors():
            await self._consumer.start()
            self._consumer.assign([])
            await self._consumer.topics()  # a connection that stands, before anybody counts on it
        works = {
            "check": self._repeat(self._check, _CHECK),
            "look": self._repeat(self._look, _LOOK),
        }
        for name, work in works.items():
            self._tasks.append(asyncio.create_task(work, name=f"broadcaster-kafka-{name}"))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._consumer is not None:
            await driver.close_consumer(self._consumer)
        await self._cluster.close()

    def _lose(self, error: Exception) -> None:
        if self._lost is None:
            self._lost = error

    # -- reading ----------------------------------------------------------------------------

    async def read(self) -> Sequence[Message | Gap]:
        """What has come since, nothing after a while; raises `ConnectionLostError`."""
        assert self._consumer is not None
        self._raise_if_lost()
        items: list[Message | Gap] = []
        batches: Mapping[TopicPartition, Sequence[Record]] = {}
        try:
            batches = await self._consumer.getmany(timeout_ms=_POLL)
        except driver.OffsetOutOfRange as error:
            await self._repair({place.topic for place in error.args[0]})
        items += self._told
        self._told.clear()
        found = [self._take(place, records) for place, records in batches.items()]
        items += merged(found)
        return items

    def _take(self, place: TopicPartition, records: Sequence[Record]) -> list[Message]:
        """The messages of one partition, which is read on behind them."""
        offsets = self._standing.places.get(place.topic, {})
        if place.partition not in offsets:
            return []
        offsets[place.partition] = records[-1].offset + 1
        messages = [self._naming.message(place, record) for record in records]
        return [one for one in messages if one is not None and self._standing.hears(place, one)]

    async def _repair(self, topics: Collection[str]) -> None:
        async with self._change():
            names = [name for name in topics if name in self._read]
            await self._prove(names, await self._cluster.ensure(names))
            self._assign()

    def _assign(self) -> None:
        """Tell the consumer what to read, all of it: it forgets what it was told before."""
        assert self._consumer is not None
        places = [
            (partition_of(topic, partition), offset)
            for topic in self._read
            for partition, offset in self._standing.places[topic].items()
        ]
        self._consumer.assign([place for place, _ in places])
        for place, offset in places:
            self._consumer.seek(place, offset)

    # -- what is read -----------------------------------------------------------------------

    async def join(self, channels: Collection[str]) -> Mapping[str, Cursor]:
        """Hear channels: known ones from where they are, with proof, new ones from now on."""
        names = dict.fromkeys(map(self._naming.topic_of, channels))
        async with self._change():
            ends = await self._settle(names)
            return {channel: self._standing.join(channel, ends) for channel in channels}

    async def pjoin(self, patterns: Collection[str]) -> None:
        """As `join`; of topics that come later everything is heard."""
        async with self._change():
            ends = await self._settle(await self._matching(patterns))
            for pattern in patterns:
                self._standing.pjoin(pattern, ends)

    @asynccontextmanager
    async def _change(self) -> AsyncGenerator[None]:
        """One change at a time; a connection that is lost in it is lost for all."""
        async with self._changing:
            self._raise_if_lost()
            try:
                yield
            except ConnectionLostError as error:
                self._lose(error)
                raise

    async def _matching(self, patterns: Iterable[str]) -> list[str]:
        """The topics in which there may be channels that match."""
        if self._naming.topic is not None:
            return [self._naming.topic]
        names = await self._cluster.topics(None)
        return [name for name in names if any(_patterns.matches(one, name) for one in patterns)]

    def leave(self) -> None:
        """Read no more than what `standing` says."""
        left = self._read - self._standing.places.keys()
        if left:
            self._read -= left
            self._assign()

    async def _settle(self, topics: Iterable[str]) -> dict[str, Offsets]:
        """Read these topics, and return where they end."""
        names = list(topics)
        if not names:
            return {}
        found = await self._cluster.ensure(names)
        ends = await self._offsets(found, driver.LATEST)
        new = [name for name in names if name not in self._read]
        await self._prove([name for name in new if name in self._standing.places], found)
        self._raise_if_lost()
        for name in new:
            self._standing.enter(name, ends[name])
        if new:
            self._read.update(new)
            self._assign()
        return ends

    def _raise_if_lost(self) -> None:
        if self._lost is not None:
            raise ConnectionLostError(str(self._lost)) from self._lost

    async def _offsets(self, topics: Mapping[str, Topic], at: int) -> dict[str, Offsets]:
        found: dict[str, dict[int, int]] = {name: {} for name in topics}
        for place, offset in (await self._cluster.offsets(topics, at)).items():
            found[place.topic][place.partition] = offset
        return dict(found)

    async def _prove(self, names: Collection[str], found: Mapping[str, Topic]) -> None:
        """Tell of a gap for each topic that does not go on where we stand."""
        if not names:
            return
        topics = {name: found[name] for name in names}
        starts = await self._offsets(topics, driver.EARLIEST)
        ends = await self._offsets(topics, driver.LATEST)
        self._raise_if_lost()  # no place may move whose gap is told to nobody
        for name in names:
            if name in self._standing.places:  # it may have been left meanwhile
                reason = self._standing.prove(name, starts[name], ends[name])
                if reason is not None:
                    self._told += [Gap(one, reason) for one in self._standing.hearers(name)]

    # -- what happens meanwhile -------------------------------------------------------------

    async def _repeat(self, work: Callable[[], Awaitable[None]], pause: float) -> None:
        try:
            while self._lost is None:
                await asyncio.sleep(pause)
                async with asyncio.timeout(_PATIENCE):
                    await work()
        except TimeoutError:
            self._lose(ConnectionLostError(f"{self._server} does not answer"))
        except BackendError as error:
            self._lose(error)

    async def _check(self) -> None:
        """Look at the brokers: dead ones make no sound."""
        found = await self._cluster.topics(list(self._read))
        for name, topic in found.items():
            if name in self._read and topic.keys() != self._standing.places[name].keys():
                raise ConnectionLostError(f"{self._server}: partitions of {name!r} were added")
        leaders = {leader for topic in found.values() for leader in topic.values()}
        if -1 in leaders or any(name not in found for name in self._read):
            raise ConnectionLostError(f"{self._server}: a topic is gone, or has no leader")
        await self._cluster.check(leaders)

    async def _look(self) -> None:
        """Read topics that are new, and that a pattern hears."""
        patterns = self._standing.patterns
        if self._naming.topic is None and patterns:
            new = set(await self._matching(patterns)) - self._read
            if new:
                async with self._change():
                    await self._settle(new)
