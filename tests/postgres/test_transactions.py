"""`publish(connection=)`: part of the caller's transaction, whichever client it is on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from fastapi_broadcaster import (
    Broadcaster,
    Channel,
    ChannelTemplate,
    MessageTooLargeError,
    NotConnectedError,
    Receipt,
    SerializationError,
    UnsupportedError,
)
from servers import Postgres
from tests.conformance.tools import PATIENCE, take, until

Transaction = Callable[[str], AbstractAsyncContextManager[Any]]


@asynccontextmanager
async def with_asyncpg(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def with_asyncpg_pool(url: str) -> AsyncIterator[Any]:
    async with (
        asyncpg.create_pool(url, min_size=1) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        yield connection


@asynccontextmanager
async def with_psycopg(url: str) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield connection


@asynccontextmanager
async def with_sqlalchemy(url: str, driver: str = "asyncpg") -> AsyncIterator[Any]:
    engine = create_async_engine(url.replace("postgres://", f"postgresql+{driver}://"))
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


@asynccontextmanager
async def with_session(url: str, driver: str = "asyncpg") -> AsyncIterator[Any]:
    engine = create_async_engine(url.replace("postgres://", f"postgresql+{driver}://"))
    try:
        async with AsyncSession(engine) as session, session.begin():
            yield session
    finally:
        await engine.dispose()


def with_sqlalchemy_psycopg(url: str) -> AbstractAsyncContextManager[Any]:
    return with_sqlalchemy(url, "psycopg")


def with_session_psycopg(url: str) -> AbstractAsyncContextManager[Any]:
    return with_session(url, "psycopg")


@pytest.fixture(
    params=[
        with_asyncpg,
        with_asyncpg_pool,
        with_psycopg,
        with_sqlalchemy,
        with_sqlalchemy_psycopg,
        with_session,
        with_session_psycopg,
    ]
)
def transaction(request: pytest.FixtureRequest) -> Transaction:
    return request.param


async def rows(sql: asyncpg.Connection, table: str) -> list[str]:
    found = await sql.fetch(f"select data from {table} order by id")
    return [row["data"].decode() for row in found]


async def test_visible_after_the_commit_only(
    transaction: Transaction, server: Postgres, stream_url: str, table: str, sql: asyncpg.Connection
) -> None:
    jobs = ChannelTemplate("jobs.{job}", dict[str, str])
    async with Broadcaster(stream_url) as broadcaster:
        job = broadcaster.channel(jobs, job="7")
        async with job.subscribe() as subscriber, broadcaster.subscribe("text") as text:
            async with transaction(server.url) as connection:
                receipt = await job.publish({"state": "dóne"}, connection=connection)
                assert receipt == Receipt(channel="jobs.7", id=None)
                await broadcaster.publish("text", "in", connection=connection)
                await broadcaster.publish("text", "meanwhile")
                assert await take(text, 1) == ["meanwhile"]
                assert await rows(sql, table) == ["meanwhile"]
            assert await take(subscriber, 1) == [{"state": "dóne"}]
            assert await take(text, 1) == ["in"]
            page = await broadcaster.channel("text").page()
        assert [event.message for event in page.items] == ["meanwhile", "in"]
        assert await sql.fetchval(f"select count(*) from {table}_outbox") == 0


async def test_nothing_after_a_rollback(
    transaction: Transaction, server: Postgres, stream_url: str, table: str, sql: asyncpg.Connection
) -> None:
    async with Broadcaster(stream_url) as broadcaster, broadcaster.subscribe("room") as subscriber:
        with suppress(ZeroDivisionError):
            async with transaction(server.url) as connection:
                await broadcaster.publish("room", "undone", connection=connection)
                raise ZeroDivisionError
        await broadcaster.publish("room", "end")
        assert await take(subscriber, 1) == ["end"]
        assert await rows(sql, table) == ["end"]


async def test_a_savepoint_takes_its_own_back(
    stream_url: str, table: str, sql: asyncpg.Connection
) -> None:
    async with Broadcaster(stream_url) as broadcaster:
        async with sql.transaction():
            await broadcaster.publish("room", "a", connection=sql)
            with suppress(ZeroDivisionError):
                async with sql.transaction():
                    await broadcaster.publish("room", "b", connection=sql)
                    raise ZeroDivisionError
            await broadcaster.publish("room", "c", connection=sql)
        assert await rows(sql, table) == ["a", "c"]


async def test_without_a_transaction_it_is_published_at_once(
    stream_url: str, sql: asyncpg.Connection
) -> None:
    async with Broadcaster(stream_url) as broadcaster, broadcaster.subscribe("room") as subscriber:
        await broadcaster.publish("room", "hello", connection=sql)
        assert await take(subscriber, 1) == ["hello"]


async def test_plain_sql_publishes_too(
    stream_url: str, table: str, sql: asyncpg.Connection
) -> None:
    async with Broadcaster(stream_url) as broadcaster, broadcaster.subscribe("room") as subscriber:
        insert = f"insert into {table}_outbox (channel, data) values ($1, $2)"
        await sql.executemany(insert, [("room", str(number).encode()) for number in range(100)])
        assert await take(subscriber, 100) == [str(number) for number in range(100)]
        for name in ("", "a\nb", "x" * 1_001):
            with pytest.raises(asyncpg.CheckViolationError):
                await sql.execute(insert, name, b"refused")


async def test_callers_in_opposite_order_never_deadlock(server: Postgres, stream_url: str) -> None:
    """Nor do they wait for each other, or for batches, before they commit."""
    dice = random.Random(8)
    names = [f"room.{number}" for number in range(6)]
    async with (
        Broadcaster(stream_url) as broadcaster,
        broadcaster.subscribe(names, buffer_size=5_000) as subscriber,
    ):

        async def transact(caller: int) -> None:
            connection = await asyncpg.connect(server.url)
            for _ in range(40):
                async with connection.transaction():
                    for name in names if caller % 2 else reversed(names):
                        await broadcaster.publish(name, "in", connection=connection)
                        await asyncio.sleep(dice.random() * 0.001)
            await connection.close()

        async def publish() -> None:
            for _ in range(200):
                await broadcaster.publish(dice.choice(names), "out")

        async with asyncio.timeout(120):
            await asyncio.gather(*(transact(caller) for caller in range(8)), publish())
        heard = await take(subscriber, 8 * 40 * 6 + 200)
    assert heard.count("in") == 8 * 40 * 6


async def test_an_open_transaction_holds_nobody_up(
    stream_url: str, sql: asyncpg.Connection
) -> None:
    async with Broadcaster(stream_url) as broadcaster, broadcaster.subscribe("room") as subscriber:
        async with sql.transaction():
            await broadcaster.publish("room", "later", connection=sql)
            for number in range(20):
                await asyncio.wait_for(broadcaster.publish("room", str(number)), PATIENCE)
        assert await take(subscriber, 21) == [*(str(number) for number in range(20)), "later"]


@pytest.mark.parametrize("url", ["memory://", "postgres"])
async def test_other_backends_refuse(server: Postgres, url: str, sql: asyncpg.Connection) -> None:
    async with Broadcaster(server.url if url == "postgres" else url) as broadcaster:
        with pytest.raises(UnsupportedError, match="postgres-stream://"):
            await broadcaster.publish("room", "hello", connection=sql)


async def test_what_is_no_connection_is_refused(server: Postgres, stream_url: str) -> None:
    async with Broadcaster(stream_url) as broadcaster:
        url = server.url.replace("postgres://", "postgresql+psycopg://")
        engine = create_engine(url)
        with psycopg.connect(server.url) as blocking, engine.connect() as also_blocking:
            for wrong in (blocking, also_blocking, object(), "", 0):
                with pytest.raises(TypeError, match="AsyncSession"):
                    await broadcaster.publish("room", "hello", connection=wrong)
        engine.dispose()


async def test_a_message_is_checked_before_it_is_inserted(
    stream_url: str, sql: asyncpg.Connection
) -> None:
    broadcaster = Broadcaster(stream_url, max_message_size=10)
    with pytest.raises(NotConnectedError):
        await broadcaster.publish("room", "hello", connection=sql)
    async with broadcaster:
        async with sql.transaction():
            with pytest.raises(MessageTooLargeError):
                await broadcaster.publish("room", "x" * 11, connection=sql)
            numbers: Channel[Any] = broadcaster.channel("room", int)
            with pytest.raises(SerializationError):
                await numbers.publish("x", connection=sql)
            await broadcaster.publish("room", "fits", connection=sql)
        await until(lambda: _published(broadcaster, "fits"))


async def _published(broadcaster: Broadcaster, message: str) -> bool:
    page = await broadcaster.channel("room").page()
    return [event.message for event in page.items] == [message]


async def test_the_callers_own_driver_tells_of_its_own_failures(
    stream_url: str, sql: asyncpg.Connection
) -> None:
    async with Broadcaster(stream_url) as broadcaster:
        transaction = sql.transaction()
        await transaction.start()
        with pytest.raises(asyncpg.DivisionByZeroError):
            await sql.execute("select 1 / 0")
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            await broadcaster.publish("room", "hello", connection=sql)
        await transaction.rollback()
