"""`postgres://`: what LISTEN and NOTIFY alone would get wrong, and who else may take part."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import asyncpg
import pytest

from fastapi_broadcaster import BackendError, Broadcaster, Gap, Receipt
from fastapi_broadcaster.backends.postgres import PostgresBackend
from servers import Postgres
from tests.conformance.tools import PATIENCE, Barrier, take, take_until, until
from tests.postgres.broker import PostgresBroker

MIB = 1_048_576


async def publish_as_one_batch(broadcaster: Broadcaster, messages: list[tuple[str, str]]) -> list:
    """The first leaves alone, the others wait for it and leave together."""
    publishing = [asyncio.create_task(broadcaster.publish(*message)) for message in messages]
    return await asyncio.gather(*publishing, return_exceptions=True)


async def test_equal_messages_in_one_batch_all_arrive(url: str) -> None:
    messages = ["ok", "ok", "fine", "ok", "ok", "ok"]
    async with Broadcaster(url) as broadcaster, broadcaster.subscribe("equal") as subscriber:
        await publish_as_one_batch(broadcaster, [("equal", message) for message in messages])
        assert await take(subscriber, 6) == messages


async def test_twenty_concurrent_publishers(url: str) -> None:
    async with (
        Broadcaster(url) as broadcaster,
        Broadcaster(url) as other,
        broadcaster.subscribe("twenty", buffer_size=5_000) as subscriber,
    ):

        async def publish(publisher: int) -> None:
            through = (broadcaster, other)[publisher % 2]
            for number in range(100):
                await through.publish("twenty", f"{publisher} {number}")

        await asyncio.gather(*(publish(publisher) for publisher in range(20)))
        heard = await take(subscriber, 2_000)
    for publisher in range(20):
        mine = [message for message in heard if message.startswith(f"{publisher} ")]
        assert mine == [f"{publisher} {number}" for number in range(100)]


async def test_large_messages_among_small_ones(url: str) -> None:
    """1 MiB each, from six publishers on four connections; nobody's chunks come between."""
    async with AsyncExitStack() as stack:
        connected = [await stack.enter_async_context(Broadcaster(url)) for _ in range(4)]
        subscriber = await stack.enter_async_context(connected[0].subscribe("large"))

        async def publish(publisher: int) -> None:
            through = connected[publisher % 4]
            for number in range(3):
                await through.publish("large", f"{publisher}{number}" + "é" * (MIB // 2 - 2))
                for small in range(5):
                    await through.publish("large", f"{publisher}{number} small {small}")

        publishing = asyncio.gather(*(publish(publisher) for publisher in range(6)))
        heard = await take(subscriber, 6 * 3 * 6)
        await publishing
    for publisher in range(6):
        mine = [message for message in heard if message[0] == str(publisher)]
        wanted = []
        for number in range(3):
            head = f"{publisher}{number}"
            wanted += [head + "é" * (MIB // 2 - 2)]
            wanted += [f"{head} small {small}" for small in range(5)]
        assert mine == wanted


async def test_who_joins_in_the_middle_of_a_large_message_never_gets_half(url: str) -> None:
    async with Broadcaster(url) as speaker, Broadcaster(url, linger=0.0) as listener:
        body = "x" * 200_000
        stop = asyncio.Event()

        async def speak() -> None:
            number = 0
            while not stop.is_set():
                await asyncio.gather(
                    *(speaker.publish("joined", f"{number + one} {body}") for one in range(8))
                )
                number += 8

        speaking = asyncio.create_task(speak())
        for _ in range(40):
            async with listener.subscribe("joined", buffer_size=5_000) as subscriber:
                numbers = []
                for message in await take(subscriber, 5):
                    number, _, rest = message.partition(" ")
                    assert rest == body
                    numbers.append(int(number))
                assert numbers == list(range(numbers[0], numbers[0] + 5))
        stop.set()
        await speaking


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", bytes(range(256)), b"\x01fb1:", b"\xff" * MIB, "é€\U0001f600".encode()],
    ids=lambda data: f"{len(data)}-{data[:2].hex()}",
)
async def test_any_bytes(url: str, data: bytes) -> None:
    async with Broadcaster(url) as broadcaster:
        channel = broadcaster.channel("bytes", bytes)
        async with channel.subscribe() as subscriber:
            await channel.publish(data)
            assert await take(subscriber, 1) == [data]


async def test_names_of_any_length_and_kind(url: str) -> None:
    names = ["x" * length for length in (1, 62, 63, 64, 65, 1_000)]
    names += ["é" * 31, "é" * 32, "é" * 1_000, 'a"b', "a;b", "A.b", "a.b", "sp ace", "fb1_x"]
    async with Broadcaster(url) as broadcaster, broadcaster.subscribe(names) as subscriber:
        for name in names:
            await broadcaster.publish(name, name)
        heard = [await subscriber.get() for _ in names]
    assert [event.channel for event in heard] == names
    assert [event.message for event in heard] == names


async def test_pg_notify_is_heard_and_hears(url: str, sql: asyncpg.Connection) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    await sql.add_listener("both", lambda *notified: heard.put_nowait(notified[3]))
    async with Broadcaster(url) as broadcaster, broadcaster.subscribe("both") as subscriber:
        await sql.execute("select pg_notify('both', 'from SQL: é')")
        await sql.execute('notify "both"')
        assert await take(subscriber, 2) == ["from SQL: é", ""]
        await broadcaster.publish("both", "from Python: é")
        wanted = ["from SQL: é", "", "from Python: é"]
        assert [await asyncio.wait_for(heard.get(), PATIENCE) for _ in wanted] == wanted


async def test_a_trigger_on_a_table(url: str, sql: asyncpg.Connection) -> None:
    await sql.execute("""
        create table orders (id int primary key, state text);
        create function tell() returns trigger language plpgsql as $$ begin
          perform pg_notify('orders.' || new.id, new.state); return null; end $$;
        create trigger told after insert or update on orders for each row execute function tell();
    """)
    async with Broadcaster(url) as broadcaster, broadcaster.subscribe("orders.7") as subscriber:
        async with sql.transaction():
            await sql.execute("insert into orders values (7, 'new'), (8, 'new')")
            await sql.execute("update orders set state = 'paid'")
            await broadcaster.publish("orders.7", "before the commit")
        await sql.execute("update orders set state = 'sent'")
        assert await take(subscriber, 4) == ["before the commit", "new", "paid", "sent"]


async def test_a_message_that_the_server_refuses_fails_only_its_own_caller() -> None:
    with PostgresBroker() as broker:
        await broker.refuse_all_but("ok.")
        messages = [("ok.1", "a"), ("ok.1", "b"), ("bad", "c"), ("ok.1", "d" * MIB), ("bad", "e")]
        async with (
            broker.broadcaster() as broadcaster,
            broadcaster.subscribe("ok.1") as subscriber,
        ):
            outcomes = await publish_as_one_batch(broadcaster, messages)
            assert await take(subscriber, 3) == ["a", "b", "d" * MIB]
    for (channel, _), outcome in zip(messages, outcomes, strict=True):
        assert type(outcome) is (Receipt if channel == "ok.1" else BackendError)


async def test_a_batch_leaves_in_one_statement_and_10_000_names_in_ten() -> None:
    with PostgresBroker() as broker:
        broadcaster = broker.broadcaster(subscribe_timeout=60)
        barrier = Barrier(broadcaster, "publish")
        async with broadcaster, AsyncExitStack() as stack:
            before = broker.server.log.read_text().count('listen "')
            assert before == 0
            entering = [
                stack.enter_async_context(broadcaster.subscribe(f"c{number}"))
                for number in range(10_000)
            ]
            await asyncio.gather(*entering)
            text = broker.server.log.read_text()
            assert text.count('listen "') == 10_000
            assert sum('listen "' in line for line in text.splitlines()) < 30
            barrier.close()
            publishing = [
                asyncio.create_task(broadcaster.publish("c1", str(number))) for number in range(201)
            ]
            await until(lambda: barrier.held)
            barrier.open()
            await asyncio.gather(*publishing)
            assert broker.server.log.read_text().count("pg_notify") == 2


async def test_a_server_that_forgets_listen_is_noticed(url: str) -> None:
    """As a pooler in transaction mode does."""
    backend = PostgresBackend(url)
    async with (
        Broadcaster(backend=backend) as broadcaster,
        broadcaster.subscribe("forgotten") as subscriber,
    ):
        assert backend._listening is not None
        await backend._listening._connection.execute("unlisten *")
        await until(lambda: broadcaster.health().reconnects)
        assert "pooler" in str(broadcaster.health().last_error)
        await until(lambda: broadcaster.health().state == "connected")
        await broadcaster.publish("forgotten", "end")
        assert await take_until(subscriber, "end") == [Gap("forgotten", "reconnected")]


async def test_listen_url(server: Postgres, url: str) -> None:
    """Publishing through one address, listening at another."""
    backend = PostgresBackend(url, listen_url=f"{server.url}?application_name=listens")
    async with (
        Broadcaster(backend=backend) as broadcaster,
        broadcaster.subscribe("two") as subscriber,
    ):
        await broadcaster.publish("two", "hello")
        assert await take(subscriber, 1) == ["hello"]
