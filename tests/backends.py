"""The backends that the conformance suite runs against: adding one is adding a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from fastapi_broadcaster import Backend, HistoryBackend, MemoryBackend, PatternBackend
from fastapi_broadcaster.backends.kafka import KafkaBackend
from fastapi_broadcaster.backends.postgres import PostgresBackend
from fastapi_broadcaster.backends.postgres_stream import PostgresStreamBackend
from fastapi_broadcaster.backends.rabbitmq import RabbitMQBackend
from fastapi_broadcaster.backends.rabbitmq_stream import RabbitMQStreamBackend
from fastapi_broadcaster.backends.redis import RedisBackend
from fastapi_broadcaster.backends.redis_cluster import RedisClusterBackend
from fastapi_broadcaster.backends.redis_stream import RedisStreamBackend
from tests.brokers import Broker, MemoryBroker, RedisBroker
from tests.conformance.toy import ToyBackend, ToyBroker
from tests.kafka.broker import KafkaBroker
from tests.postgres.broker import PostgresBroker, PostgresStreamBroker
from tests.rabbitmq.broker import RabbitMQBroker, RabbitMQStreamBroker
from tests.redis_cluster.broker import RedisClusterBroker
from tests.redis_stream.broker import RedisStreamBroker


@dataclass(frozen=True, kw_only=True)
class BackendCase:
    """One backend, its broker, and what else the tests must know."""

    id: str
    backend_class: type[Backend]
    broker: Callable[[], Broker]
    shared: bool = True
    """Whether two broadcasters on one broker hear each other."""
    processes: bool = True
    """Whether a broker is reached by `broker.url` from another process."""
    exact_missed: bool = False
    """Whether a gap "expired" tells how many messages are missing."""
    receipts: bool = True
    """Whether a receipt has the id of its event, on a backend with a log."""
    order_across: bool = True
    """Whether what one task publishes on several channels arrives in that order."""
    instead: str = ""
    """What an `UnsupportedError` for history names as the way out."""

    @property
    def log(self) -> bool:
        return issubclass(self.backend_class, HistoryBackend)

    @property
    def patterns(self) -> bool:
        return issubclass(self.backend_class, PatternBackend)

    @property
    def loses_on_outage(self) -> bool:
        """Without a log, what is published while the connection is away is gone."""
        return not self.log


CASES = [
    BackendCase(
        id="memory",
        backend_class=MemoryBackend,
        broker=MemoryBroker,
        shared=False,
        processes=False,
        exact_missed=True,
    ),
    BackendCase(
        id="redis", backend_class=RedisBackend, broker=RedisBroker, instead="redis-stream://"
    ),
    BackendCase(
        id="redis-cluster",
        backend_class=RedisClusterBackend,
        broker=RedisClusterBroker,
        order_across=False,
        instead="redis-stream://",
    ),
    BackendCase(id="redis-stream", backend_class=RedisStreamBackend, broker=RedisStreamBroker),
    BackendCase(
        id="postgres",
        backend_class=PostgresBackend,
        broker=PostgresBroker,
        instead="postgres-stream://",
    ),
    BackendCase(
        id="postgres-stream", backend_class=PostgresStreamBackend, broker=PostgresStreamBroker
    ),
    BackendCase(id="kafka", backend_class=KafkaBackend, broker=KafkaBroker, order_across=False),
    BackendCase(
        id="amqp",
        backend_class=RabbitMQBackend,
        broker=RabbitMQBroker,
        instead="amqp-stream://",
    ),
    BackendCase(
        id="amqp-stream",
        backend_class=RabbitMQStreamBackend,
        broker=RabbitMQStreamBroker,
        receipts=False,
    ),
    BackendCase(
        id="toy",
        backend_class=ToyBackend,
        broker=ToyBroker,
        processes=False,
        exact_missed=True,
    ),
]


def row_in(parameters: str) -> str:
    """The backend that the bracketed part of a test's id names, "" if it names none."""
    found = [case.id for case in CASES if f"-{case.id}-" in f"-{parameters}-"]
    return max(found, key=len, default="")


def rows(wanted: Callable[[BackendCase], bool]) -> pytest.MarkDecorator:
    """Run a test only against the backends about which it says something."""
    cases = [case for case in CASES if wanted(case)]
    return pytest.mark.parametrize("case", cases, ids=[case.id for case in cases])
