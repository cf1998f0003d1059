"""Brokers of `redis-stream://`: one that all share, one to break."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from fastapi_broadcaster import Broadcaster
from tests.redis_stream.broker import RedisStreamBroker


@pytest.fixture(scope="session")
def shared() -> Iterator[RedisStreamBroker]:
    """Break nothing."""
    with RedisStreamBroker() as broker:
        yield broker


@pytest.fixture
def own() -> Iterator[RedisStreamBroker]:
    """A server of the test's own."""
    with RedisStreamBroker() as broker:
        yield broker


@pytest.fixture
async def broadcaster(shared: RedisStreamBroker) -> AsyncIterator[Broadcaster]:
    async with shared.broadcaster() as broadcaster:
        yield broadcaster
