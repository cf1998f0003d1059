"""`postgres-stream://`: one order, messages of any size, and an outage that loses nothing."""

from __future__ import annotations

import asyncio
import random
from typing import Literal

import asyncpg
import pytest

from fastapi_broadcaster import Broadcaster, Gap
from fastapi_broadcaster.backends.postgres_stream import PostgresStreamBackend, from_url
from servers import Postgres
from tests.conformance.tools import PATIENCE, back, lost, reading, take, take_until, until
from tests.postgres.broker import PostgresStreamBroker
from tests.postgres.conftest import at_most, stream

MIB = 1_048_576
LEVELS: list[Literal["read_committed", "repeatable_read", "serializable"]]
LEVELS = ["read_committed", "repeatable_read", "serializable"]


async def test_eight_writers_with_rollbacks_skip_nothing(
    server: Postgres, stream_url: str, table: str, sql: asyncpg.Connection
) -> None:
    """Half in batches, half in transactions of every isolation level, some of them undone."""
    dice = random.Random(5)
    async with Broadcaster(stream_url) as broadcaster, Broadcaster(stream_url) as other:
        committed: list[list[str]] = [[] for _ in range(8)]

        async def publish(writer: int) -> None:
            through = (broadcaster, other)[writer % 2]
            for number in range(60):
                message = f"{writer} {number}"
                await through.publish(f"order.{number % 3}", message)
                committed[writer].append(message)

        async def transact(writer: int) -> None:
            connection = await asyncpg.connect(server.url)
            for number in range(60):
                level = dice.choice(LEVELS)
                messages = [f"{writer} {number}.{one}" for one in range(3)]
                try:
                    async with connection.transaction(isolation=level):
                        for message in messages:
                            await broadcaster.publish(
                                f"order.{number % 3}", message, connection=connection
                            )
                            await asyncio.sleep(dice.random() * 0.003)
                        if dice.random() < 0.25:
                            raise ZeroDivisionError
                    committed[writer] += messages
                except ZeroDivisionError:
                    pass
            await connection.close()

        async with (
            reading(broadcaster.subscribe(pattern="order.*", buffer_size=9_000)) as one,
            reading(other.subscribe(pattern="order.*", buffer_size=9_000)) as two,
        ):
            writing = (publish(w) if w < 4 else transact(w) for w in range(8))
            polled = asyncio.create_task(poll(server.url, table))
            await asyncio.gather(*writing)
            await broadcaster.publish("order.0", "end")
            await one.until("end")
            await two.until("end")
        rows = await sql.fetch(f"select id, data from {table} order by id")
        assert await polled == [row["id"] for row in rows]
    kept = [row["data"].decode() for row in rows]
    assert one.messages == two.messages == kept
    for writer, messages in enumerate(committed):
        assert [message for message in kept if message.startswith(f"{writer} ")] == messages
    assert len(committed[5]) < 180


async def poll(url: str, table: str) -> list[int]:
    """What one sees who reads `id > last` over and over."""
    connection = await asyncpg.connect(url)
    found = [0]
    last = b""
    while last != b"end":
        rows = await connection.fetch(
            f"select id, data from {table} where id > $1 order by id", found[-1]
        )
        for row in rows:
            found.append(row["id"])
            last = row["data"]
    await connection.close()
    return found[1:]


@pytest.mark.parametrize("size", [1, 5_000, 6_990, 7_000, 8_100, MIB])
@pytest.mark.parametrize("kind", ["ascii", "text", "binary", "backslash"])
async def test_any_size_of_anything(stream_url: str, size: int, kind: str) -> None:
    unit = {"ascii": b"x", "text": "é".encode(), "binary": b"\0\xff", "backslash": b"\\"}[kind]
    data = unit * (size // len(unit) or 1)
    name = "n" * 900
    async with Broadcaster(stream_url) as broadcaster:
        channel = broadcaster.channel(name, bytes)
        async with channel.subscribe() as subscriber:
            receipt = await channel.publish(data)
            event = await asyncio.wait_for(subscriber.get(), PATIENCE)
        page = await channel.page()
    assert event.message == page.items[0].message == data
    assert event.id == page.items[0].id == receipt.id
    assert event.time == page.items[0].time


async def test_large_and_small_keep_their_order(stream_url: str) -> None:
    messages = [str(number) * (1 if number % 3 else 20_000) for number in range(100)]
    async with Broadcaster(stream_url) as broadcaster, broadcaster.subscribe("mixed") as subscriber:
        await asyncio.gather(*(broadcaster.publish("mixed", message) for message in messages))
        assert await take(subscriber, 100) == messages


async def test_a_large_message_that_goes_before_it_is_fetched_is_told(
    stream_url: str, table: str, sql: asyncpg.Connection
) -> None:
    async with (
        Broadcaster(stream_url) as broadcaster,
        broadcaster.subscribe("gone") as one,
        broadcaster.subscribe(pattern="g*") as two,
    ):
        async with sql.transaction():
            await broadcaster.publish("gone", "x" * 20_000, connection=sql)
            await sql.execute("set constraints all immediate")
            await sql.execute(f"delete from {table}")
        await broadcaster.publish("gone", "end")
        assert await take_until(one, "end") == [Gap("gone", "expired")]
        assert await take_until(two, "end") == [Gap("g*", "expired")]


async def test_a_large_log_is_caught_up_with_after_an_outage() -> None:
    """Thousands of messages, small and large, on many channels, while one process was away."""
    with PostgresStreamBroker() as broker:
        async with (
            broker.broadcaster(publish_timeout=30) as broadcaster,
            reading(broadcaster.subscribe("c.1", buffer_size=100)) as one,
            reading(broadcaster.subscribe(pattern="c.?", buffer_size=9_000)) as all,
        ):
            await broadcaster.publish("c.1", "first")
            await one.until("first")
            await broker.kill()
            await lost(broadcaster)
            await asyncio.to_thread(
                broker.server.single_user,
                "select count(*) from (select broadcaster_put("
                "array_agg('c.' || i % 10), array_agg(convert_to("
                "case when i % 500 = 1 then repeat(i || ' ', 9000) else i::text end, 'UTF8'))) "
                "from generate_series(1, 3000) i) done;",
            )
            await broker.restart()
            await back(broadcaster)
            await broadcaster.publish("c.1", "end")
            await one.until("end")
            await all.until("end")
        wanted = [f"{i} " * 9_000 if i % 500 == 1 else str(i) for i in range(1, 3_001)]
        assert all.messages == ["first", *wanted, "end"]
        assert one.messages == ["first", *wanted[::10], "end"]
        assert all.gaps == one.gaps == []


async def test_foreign_notifications_harm_nobody(
    stream_url: str, table: str, sql: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async with Broadcaster(stream_url) as broadcaster, broadcaster.subscribe("calm") as subscriber:
        for payload in ("", "junk", "1 2", "a b c d\n"):
            await sql.execute("select pg_notify($1, $2)", f"public.{table}", payload)
        await broadcaster.publish("calm", "end")
        assert await take_until(subscriber, "end") == []
    assert "junk" in caplog.text


async def test_names_of_another_schema_and_table(server: Postgres, sql: asyncpg.Connection) -> None:
    await sql.execute("create schema if not exists elsewhere")
    url = f"{stream(server.url)}?schema=elsewhere&table=events&history=5"
    async with Broadcaster(url) as broadcaster, broadcaster.subscribe("room") as subscriber:
        for number in range(50):
            await broadcaster.publish("room", str(number))
        assert len(await take(subscriber, 50)) == 50
        async with sql.transaction():
            await broadcaster.publish("room", "end", connection=sql)
        assert await take(subscriber, 1) == ["end"]
        await until(lambda: at_most(sql, "elsewhere.events", 20))
    backend = PostgresStreamBackend(server.url, schema="elsewhere", table="events")
    await sql.execute(backend._schema.drop_sql())
    left = "select relname from pg_class where relnamespace = 'elsewhere'::regnamespace"
    assert await sql.fetch(left) == []


async def test_who_subscribes_stands_behind_all_that_was_published(stream_url: str) -> None:
    """Also behind what this process has not been told of yet."""
    backend = from_url(stream_url)
    async with Broadcaster(backend=backend) as broadcaster, Broadcaster(stream_url) as other:
        assert backend._listening is not None
        hold = backend._listening._connection.notified
        held: list[tuple[str, str]] = []
        backend._listening._connection.notified = lambda *notified: held.append(notified)
        receipt = await other.publish("room", "before")
        async with broadcaster.subscribe("room") as subscriber:
            assert subscriber.cursor == receipt.id
            await until(lambda: held)
            assert hold is not None
            for notified in held:
                hold(*notified)
            backend._listening._connection.notified = hold
            await other.publish("room", "after")
            assert await take(subscriber, 1) == ["after"]


@pytest.mark.parametrize("scheme", ["postgres", "postgres-stream"])
def test_another_event_loop_later(server: Postgres, scheme: str) -> None:
    option = "?history=1&table=loops" if scheme == "postgres-stream" else ""
    broadcaster = Broadcaster(server.url.replace("postgres:", f"{scheme}:", 1) + option)

    async def life() -> None:
        async with broadcaster, broadcaster.subscribe("room") as subscriber:
            for number in range(10):
                await broadcaster.publish("room", str(number))
            assert await take(subscriber, 10) == [str(number) for number in range(10)]
            if scheme == "postgres-stream":
                await broadcaster.channel("room").page()

    for _ in range(3):
        asyncio.run(life())
