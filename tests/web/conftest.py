"""Servers that many tests share: the board on memory with inline sends, without, and on Redis."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from uuid import uuid4

import pytest

from servers import Redis

from .processes import WebServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A Redis of these tests' own, which some of them kill; start it again before you leave."""
    with Redis.private() as server:
        yield server


@pytest.fixture(scope="session", params=["1", "0"], ids=["inline", "woken"])
def board(request: pytest.FixtureRequest) -> Iterator[WebServer]:
    """The board on memory, once with inline sends and once with them switched off."""
    environment = {"BROADCASTER_URL": "memory://?history=5000", "INLINE_SENDS": request.param}
    with WebServer("board:app", environment=environment) as server:
        yield server


@pytest.fixture(scope="session")
def rooms() -> Iterator[WebServer]:
    """Generated routes on memory, whose log keeps 120 messages of each channel."""
    environment = {"BROADCASTER_URL": "memory://?history=120"}
    with WebServer("rooms:app", environment=environment) as server:
        yield server


@pytest.fixture(scope="session")
def redis_board(redis_server: Redis) -> Iterator[WebServer]:
    """The board on Redis, which waits longer for it than a machine stands still."""
    environment = {"BROADCASTER_URL": redis_server.url, "BROKER_TIMEOUT": "15"}
    with WebServer("board:app", environment=environment) as server:
        yield server


@pytest.fixture
def many_files() -> Iterator[None]:
    """Sockets enough for this process, and for the servers that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4_096 if hard == resource.RLIM_INFINITY else min(4_096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def name() -> str:
    """A board that no other test uses."""
    return uuid4().hex[:8]
