"""A Kafka server of a test's own, which is reached through a proxy."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete

from fastapi_broadcaster import Broadcaster, Message
from fastapi_broadcaster.backends.base import Outcome
from fastapi_broadcaster.backends.kafka import KafkaBackend
from servers import Kafka
from tests.brokers import QUICK, Broker
from tests.conformance.tools import until
from tests.kafka.proxy import BackgroundProxy


@asynccontextmanager
async def admin_of(port: int) -> AsyncIterator[AIOKafkaAdminClient]:
    """The driver's own client for what the package never does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{port}")
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def delete_topics(port: int, names: Sequence[str] | None = None) -> None:
    """Delete these, or all but Kafka's own, and wait until they are gone."""
    async with admin_of(port) as admin:
        found = [name for name in await admin.list_topics() if not name.startswith("__")]
        wanted = [name for name in found if names is None or name in names]
        if wanted:
            await admin.delete_topics(wanted)

        async def gone() -> bool:
            return not set(wanted) & set(await admin.list_topics())

        await until(gone)


async def delete_records(port: int, topic: str, before: int) -> None:
    """Trim a topic's only partition."""
    async with admin_of(port) as admin:
        where = {TopicPartition(topic, 0): RecordsToDelete(before_offset=before)}
        await admin.delete_records(where)


class TrimmedKafka(KafkaBackend):
    """Trims the log of a channel to a number of messages, which Kafka itself cannot."""

    def __init__(self, servers: str, *, keep: int, port: int, topic: str | None) -> None:
        super().__init__(servers, topic=topic)
        self._keep = keep
        self._port = port
        self._topic = topic
        self._trimmed: dict[str, int] = {}

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        outcomes = await super().publish(messages)
        for message, outcome in zip(messages, outcomes, strict=True):
            assert isinstance(outcome, tuple)
            topic = self._topic or message.channel
            start = outcome[1] + 1 - self._keep
            if start > self._trimmed.get(topic, 0) + self._keep // 2:
                self._trimmed[topic] = start
                await delete_records(self._port, topic, start)
        return outcomes


class KafkaBroker(Broker):
    """Clients are told to come through the proxy, so that it can drop them."""

    topic: str | None = None

    def __init__(self) -> None:
        self.server = Kafka.private()
        self.proxy = BackgroundProxy(self.server.port)
        self.broadcasters: list[Broadcaster] = []

    def __enter__(self) -> Self:
        self.proxy.__enter__()
        self.server.advertised = self.proxy.port
        self.url = f"kafka://127.0.0.1:{self.proxy.port}"
        if self.topic is not None:
            self.url += f"?topic={self.topic}"
        self.server.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.server.__exit__(None, None, None)
        self.proxy.__exit__()

    @property
    def direct(self) -> int:
        """A port that leads past the proxy."""
        return self.server.port_of("INTERNAL")

    def broadcaster(self, *, log_size: int | None = None, **options: Any) -> Broadcaster:
        servers = f"127.0.0.1:{self.proxy.port}"
        if log_size:
            backend = TrimmedKafka(servers, keep=log_size, port=self.direct, topic=self.topic)
        else:
            backend = KafkaBackend(servers, topic=self.topic)
        return self._made(Broadcaster(backend=backend, **{"backoff": QUICK, **options}))

    def _made(self, broadcaster: Broadcaster) -> Broadcaster:
        self.broadcasters.append(broadcaster)
        return broadcaster

    @asynccontextmanager
    async def losing_reply(self, to: bytes) -> AsyncIterator[Broadcaster]:
        """It stays lost for longer than the publisher waits: it would be asked for again."""
        backend = KafkaBackend(f"127.0.0.1:{self.proxy.port}", topic=self.topic, timeout=3.0)
        options: dict[str, Any] = {"backoff": QUICK, "publish_timeout": 30.0}
        async with self._made(Broadcaster(backend=backend, **options)) as broadcaster:
            self.proxy.lose_reply(to, silence=4.5)
            yield broadcaster

    async def kill(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def restart(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def pause(self) -> None:
        self.server.pause()

    async def resume(self) -> None:
        self.server.resume()

    async def drop_clients(self) -> None:
        self.proxy.drop()

    async def wipe(self) -> None:
        if self.server.running:
            await delete_topics(self.direct)
        else:
            await asyncio.to_thread(shutil.rmtree, self.server.data, ignore_errors=True)

    async def refuse_all_but(self, prefix: str) -> None:
        """By topics that take nothing, made for the names that the tests use."""
        taking_nothing = {"max.message.bytes": "1"}
        async with admin_of(self.direct) as admin:
            names = [name for name in ("bad.1", "bad.2") if not name.startswith(prefix)]
            await admin.create_topics(
                [NewTopic(name, 1, 1, topic_configs=taking_nothing) for name in names]
            )

    async def subscriptions(self) -> set[str]:
        """What the consumers of these broadcasters read, and what they take of it."""
        found: set[str] = set()
        backends = [broadcaster.backend for broadcaster in self.broadcasters]
        if not any(isinstance(one, KafkaBackend) and one._running for one in backends):
            await self.proxy.quiet()
        for backend in backends:
            assert isinstance(backend, KafkaBackend)
            standing, listening = backend._standing, backend._listening
            if listening is not None and listening._consumer is not None:
                found |= {place.topic for place in listening._consumer.assignment()}
            found |= {*standing.channels, *standing.patterns}
        return found - {self.topic} if any(found - {self.topic}) else found


class SharedTopicBroker(KafkaBroker):
    """All channels live in one topic."""

    topic = "shared"
