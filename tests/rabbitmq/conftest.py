"""One server for all that do not break it, and one of its own for a test that does."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel

from tests.rabbitmq.broker import RabbitMQBroker, RabbitMQStreamBroker

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQBroker]:
    """A server that others use too: break nothing."""
    with RabbitMQBroker() as broker:
        yield broker


@pytest.fixture
def own_rabbitmq() -> Iterator[RabbitMQBroker]:
    """A server of the test's own, to be killed and frozen."""
    with RabbitMQBroker() as broker:
        yield broker


@pytest.fixture
def own_rabbitmq_stream() -> Iterator[RabbitMQStreamBroker]:
    """As `own_rabbitmq`, behind amqp-stream://."""
    with RabbitMQStreamBroker() as broker:
        yield broker


@pytest.fixture
async def pika(rabbitmq: RabbitMQBroker) -> AsyncIterator[AbstractChannel]:
    """A bare channel of aio-pika to the shared server."""
    async with await aio_pika.connect(rabbitmq.amqp_url) as connection:
        yield await connection.channel()


@pytest.fixture
def name() -> str:
    """A channel that no other test uses."""
    return f"rabbit.{next(_numbers)}"
