"""Clusters of `redis://...?cluster=true`: one that all share, one to break."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.redis_cluster.broker import RedisClusterBroker


@pytest.fixture(scope="session")
def shared() -> Iterator[RedisClusterBroker]:
    """Break nothing."""
    with RedisClusterBroker() as broker:
        yield broker


@pytest.fixture
def own() -> Iterator[RedisClusterBroker]:
    """A cluster of the test's own."""
    with RedisClusterBroker() as broker:
        yield broker
