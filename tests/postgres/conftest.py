"""One server for all tests of this folder that do not break it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from servers import Postgres

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """Break nothing."""
    with Postgres.private() as server:
        yield server


@pytest.fixture
def url(server: Postgres) -> str:
    return server.url


@pytest.fixture
def table() -> str:
    """A log that no other test uses."""
    return f"log_{next(_numbers)}"


@pytest.fixture
def stream_url(server: Postgres, table: str) -> str:
    return f"{stream(server.url)}?table={table}"


@pytest.fixture
async def sql(server: Postgres) -> AsyncIterator[asyncpg.Connection]:
    """A connection past the package."""
    connection = await asyncpg.connect(server.url)
    yield connection
    await connection.close()


def stream(url: str) -> str:
    return url.replace("postgres://", "postgres-stream://", 1)


async def at_most(sql: asyncpg.Connection, table: str, number: int) -> bool:
    """Whether a log has no more messages than that."""
    return await sql.fetchval(f"select count(*) from {table}") <= number
