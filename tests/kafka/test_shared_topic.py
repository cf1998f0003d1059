"""`?topic=`: many channels in one topic, by the key of a record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from fastapi_broadcaster import Broadcaster, HistoryLostError
from fastapi_broadcaster.backends.kafka import KafkaBackend
from servers import Kafka
from tests.conformance.tools import back, publish_all, reading, take, take_until, until
from tests.kafka.bare import bare_producer, make_topic, records_of
from tests.kafka.broker import KafkaBroker

NAMES = ["a:b", "rooms/ü b", "plain", "*", "x" * 1_000]


@pytest.fixture
async def shared(server: Kafka, name: str) -> AsyncIterator[Broadcaster]:
    async with Broadcaster(f"{server.url}?topic={name}", linger=0.0) as broadcaster:
        yield broadcaster


async def test_names_of_any_kind(server: Kafka, shared: Broadcaster, name: str) -> None:
    async with shared.subscribe(NAMES) as subscriber:
        for one in NAMES:
            await shared.publish(one, one)
        assert await take(subscriber, len(NAMES)) == NAMES
    records = await records_of(server.port, name)
    assert [record.key.decode() for record in records] == NAMES


async def test_interoperation(server: Kafka, shared: Broadcaster, name: str) -> None:
    """The key names the channel, or a header does; what has neither is nobody's."""
    async with (
        reading(shared.subscribe("room")) as reader,
        bare_producer(server.port) as producer,
    ):
        await producer.send_and_wait(name, b"no key")
        await producer.send_and_wait(name, b"no text", key=b"\xff")
        await producer.send_and_wait(name, b"keyed", key=b"room")
        await producer.send_and_wait(name, b"header", key=b"1", headers=[("channel", b"room")])
        await producer.send_and_wait(name, b"other", key=b"room", headers=[("channel", b"hall")])
        await producer.send_and_wait(name, b"end", key=b"room")
        await reader.until("end")
    assert reader.messages == ["keyed", "header", "end"]


async def test_a_newcomer_hears_nothing_from_before(server: Kafka, shared: Broadcaster) -> None:
    """Though the topic is read all the time, and perhaps some way behind."""
    async with reading(shared.subscribe("flood")) as reader:
        flooding = asyncio.create_task(
            publish_all(shared, "flood", [str(number) for number in range(2_000)])
        )
        for number in range(30):
            await shared.publish("room", f"before {number}")
            async with shared.subscribe("room") as newcomer:
                await shared.publish("room", f"after {number}")
                assert await take(newcomer, 1) == [f"after {number}"]
            async with shared.subscribe(pattern="roo?") as newcomer:
                await shared.publish("room", f"through {number}")
                assert await take(newcomer, 1) == [f"through {number}"]
        await flooding
        await reader.until("1999")
    assert reader.messages == [str(number) for number in range(2_000)]


async def test_history_of_one_of_many(shared: Broadcaster) -> None:
    for number in range(50):
        for one in ("a", "b", "c"):
            await shared.publish(one, f"{one} {number}")
    async with shared.subscribe("b", history=5, buffer_size=3) as subscriber:
        assert await take(subscriber, 5) == [f"b {number}" for number in range(45, 50)]
    found = await shared.channel("b").page(limit=20)
    assert [event.message for event in found.items] == [f"b {number}" for number in range(30, 50)]
    found = await shared.channel("b").page(limit=20, before=found.previous)
    assert [event.message for event in found.items] == [f"b {number}" for number in range(10, 30)]
    async with shared.subscribe("b", after=found.items[0].id, buffer_size=7) as subscriber:
        assert await take(subscriber, 39) == [f"b {number}" for number in range(11, 50)]


async def test_history_looks_through_so_many_records_only(
    server: Kafka, shared: Broadcaster, name: str
) -> None:
    receipts = [await shared.publish("rare", str(number)) for number in range(3)]
    await asyncio.gather(*(shared.publish("often", str(number)) for number in range(300)))
    await shared.publish("rare", "3")
    async with Broadcaster(f"{server.url}?topic={name}&scan=100") as narrow:
        for history in (10, "all"):
            async with narrow.subscribe("rare", history=history) as subscriber:
                await narrow.publish("rare", "end")
                found = await take_until(subscriber, "end")
            assert found[0] == "3"
        backend = narrow.backend
        assert isinstance(backend, KafkaBackend)
        assert receipts[2].id is not None
        with pytest.raises(HistoryLostError) as refusal:
            await backend.history("rare", after=backend.parse(receipts[2].id), limit=5)
        assert refusal.value.reason == "expired"
        page = await backend.history("rare", after=refusal.value.kept, limit=1)
        assert [message.data for message in page] == [b"3"]


async def test_several_partitions_keep_the_order_of_a_channel(server: Kafka, name: str) -> None:
    await make_topic(server, name, partitions=4)
    names = [f"room {number}" for number in range(12)]
    async with (
        Broadcaster(f"{server.url}?topic={name}") as shared,
        reading(shared.subscribe(names)) as reader,
    ):
        for count in range(20):
            for one in names:
                assert (await shared.publish(one, f"{one} {count}")).id is None
        await until(lambda: len(reader.messages) == 240)
        for one in names:
            own = [message for message in reader.messages if message.startswith(f"{one} ")]
            assert own == [f"{one} {count}" for count in range(20)]
        async with shared.subscribe(names[3], history=7) as subscriber:
            assert await take(subscriber, 7) == [f"{names[3]} {count}" for count in range(13, 20)]


async def test_going_on_behind_an_outage(own: KafkaBroker, name: str) -> None:
    url = f"{own.url}?topic={name}"
    async with (
        Broadcaster(url, publish_timeout=30) as shared,
        reading(shared.subscribe("a")) as one,
        reading(shared.subscribe(pattern="*")) as every,
    ):
        await publish_all(shared, "a", ["1", "2"])
        await own.kill()
        await own.restart()
        async with bare_producer(own.direct) as producer:
            await producer.send_and_wait(name, b"meanwhile", key=b"a")
            await producer.send_and_wait(name, b"meanwhile", key=b"b")
        await back(shared)
        await publish_all(shared, "a", ["end"])
        await one.until("end")
        await every.until("end")
    assert one.messages == ["1", "2", "meanwhile", "end"]
    assert every.messages == ["1", "2", "meanwhile", "meanwhile", "end"]
    assert one.gaps == every.gaps == []
