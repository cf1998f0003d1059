"""One broker for all tests of this folder that do not break it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from fastapi_broadcaster import Broadcaster
from servers import Kafka, SecureKafka
from tests.kafka.broker import KafkaBroker

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[Kafka]:
    """Break nothing."""
    with Kafka.private() as server:
        yield server


@pytest.fixture(scope="session")
def secure() -> Iterator[SecureKafka]:
    """With all listeners; break nothing."""
    with SecureKafka.private() as server:
        yield server


@pytest.fixture
def own() -> Iterator[KafkaBroker]:
    """A server of the test's own."""
    with KafkaBroker() as broker:
        yield broker


@pytest.fixture
async def broadcaster(server: Kafka) -> AsyncIterator[Broadcaster]:
    async with Broadcaster(server.url) as broadcaster:
        yield broadcaster


@pytest.fixture
def name() -> str:
    """A channel that no other test uses."""
    return f"kafka.{next(_numbers)}"
