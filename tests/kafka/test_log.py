"""The log: pages in every direction, and the proof log start <= offset <= end."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from fastapi_broadcaster import Broadcaster, HistoryLostError
from fastapi_broadcaster.backends.kafka import KafkaBackend
from fastapi_broadcaster.messages import Cursor
from servers import Kafka
from tests.conformance.tools import publish_all
from tests.kafka.bare import bare_producer, make_topic, records_of
from tests.kafka.broker import delete_records, delete_topics

TWENTY = [str(number) for number in range(20)]


def backend_of(broadcaster: Broadcaster) -> KafkaBackend:
    assert isinstance(broadcaster.backend, KafkaBackend)
    return broadcaster.backend


async def page(broadcaster: Broadcaster, name: str, **where: object) -> list[str]:
    messages = await backend_of(broadcaster).history(name, **where)  # type: ignore[arg-type]
    return [message.data.decode() for message in messages]


async def lost(broadcaster: Broadcaster, name: str, after: Cursor) -> tuple[str, Cursor]:
    with pytest.raises(HistoryLostError) as refusal:
        await page(broadcaster, name, after=after, limit=5)
    return refusal.value.reason, refusal.value.kept


async def test_the_proof_at_both_ends(server: Kafka, broadcaster: Broadcaster, name: str) -> None:
    await publish_all(broadcaster, name, TWENTY)
    await delete_records(server.port, name, 10)
    assert await page(broadcaster, name, after={}, limit=3) == ["10", "11", "12"]
    assert await page(broadcaster, name, after={"0": 9}, limit=3) == ["10", "11", "12"]
    assert await lost(broadcaster, name, {"0": 8}) == ("expired", {"0": 9})
    assert await lost(broadcaster, name, {"0": -1}) == ("expired", {"0": 9})
    assert await page(broadcaster, name, after={"0": 19}, limit=3) == []
    assert await lost(broadcaster, name, {"0": 20}) == ("reset", {"0": 9})
    assert await lost(broadcaster, name, {"1": 3}) == ("reset", {"0": 9})
    assert await page(broadcaster, name, limit=100) == TWENTY[10:]
    assert await page(broadcaster, name, before={"0": 12}, limit=100) == ["10", "11"]
    assert await page(broadcaster, name, before={"0": 10}, limit=100) == []


async def test_a_topic_that_does_not_exist(
    server: Kafka, broadcaster: Broadcaster, name: str
) -> None:
    """Reading makes none; who was behind something has lost it."""
    for where in ({"after": {}}, {"after": {"0": -1}}, {"since": datetime.now(UTC)}, {}):
        assert await page(broadcaster, name, limit=5, **where) == []
    assert await lost(broadcaster, name, {"0": 3}) == ("reset", {})
    await broadcaster.publish(name, "hello")
    await delete_topics(server.port, [name])
    assert await page(broadcaster, name, limit=5) == []


async def test_records_that_are_no_messages(
    server: Kafka, broadcaster: Broadcaster, name: str
) -> None:
    """Transactions leave marks in the log, which take offsets."""
    await make_topic(server, name)
    async with bare_producer(server.port, transactional_id=name) as producer:
        for number in range(30):
            async with producer.transaction():
                await producer.send(name, str(number).encode())
    wanted = [str(number) for number in range(30)]
    assert await page(broadcaster, name, limit=10) == wanted[-10:]
    assert await page(broadcaster, name, limit=100) == wanted
    assert await page(broadcaster, name, after={}, limit=100) == wanted
    assert await page(broadcaster, name, after={"0": 58}, limit=5) == []
    found = await broadcaster.channel(name).page(limit=7)
    seen = [event.message for event in found.items]
    while found.previous is not None:
        found = await broadcaster.channel(name).page(limit=7, before=found.previous)
        seen = [event.message for event in found.items] + seen
    assert seen == wanted


async def test_by_time(broadcaster: Broadcaster, name: str) -> None:
    await publish_all(broadcaster, name, ["old"])
    await asyncio.sleep(0.3)  # what makes it old
    border = datetime.now(UTC)
    await asyncio.sleep(0.05)
    await publish_all(broadcaster, name, ["new 1", "new 2"])
    assert await page(broadcaster, name, since=border, limit=5) == ["new 1", "new 2"]
    assert await page(broadcaster, name, since=border, limit=1) == ["new 1"]
    assert await page(broadcaster, name, since=datetime.now(UTC), limit=1) == []


async def test_several_partitions(server: Kafka, broadcaster: Broadcaster, name: str) -> None:
    """Ids tell of all partitions, and going on from any of them gives exactly the rest."""
    await make_topic(server, name, partitions=3)
    async with broadcaster.subscribe(name) as subscriber:
        async with bare_producer(server.port) as producer:
            for number in range(30):
                await producer.send_and_wait(name, str(number).encode(), partition=number % 3)
        assert (await broadcaster.publish(name, "end")).id is None
        events = [await subscriber.get() for _ in range(31)]
    live = [event.message for event in events]
    assert sorted(live) == sorted([*map(str, range(30)), "end"])
    for at, event in enumerate(events):
        assert event.id is not None
        async with broadcaster.subscribe(name, after=event.id, buffer_size=4) as resumed:
            rest = [(await resumed.get()).message for _ in live[at + 1 :]]
        assert sorted(rest) == sorted(live[at + 1 :])


async def test_paging_several_partitions(
    server: Kafka, broadcaster: Broadcaster, name: str
) -> None:
    """By time: an id of a page tells of the partitions that it has seen."""
    config = {"message.timestamp.type": "LogAppendTime"}
    await make_topic(server, name, partitions=3, config=config)
    async with bare_producer(server.port) as producer:
        for number in range(30):
            await producer.send_and_wait(name, str(number).encode(), partition=number * 7 % 3)
    records = await records_of(server.port, name)
    records.sort(key=lambda record: (record.timestamp, record.partition, record.offset))
    wanted = [record.value.decode() for record in records]
    async with broadcaster.subscribe(name, history=8, buffer_size=3) as subscriber:
        assert [(await subscriber.get()).message for _ in range(8)] == wanted[-8:]
    async with broadcaster.subscribe(name, history="all", buffer_size=5) as subscriber:
        assert [(await subscriber.get()).message for _ in range(30)] == wanted


async def test_a_few_consumers_for_many_readers(broadcaster: Broadcaster, name: str) -> None:
    await publish_all(broadcaster, name, TWENTY)
    pages = await asyncio.gather(*(page(broadcaster, name, limit=20) for _ in range(50)))
    assert pages == [TWENTY] * 50
    running = backend_of(broadcaster)._running
    assert running is not None
    assert 1 <= len(running.pages._idle) <= 4


def test_ids() -> None:
    backend = KafkaBackend("localhost")
    for cursor in ({}, {"0": -1}, {"0": 5}, {"0": 1, "2": 3, "10": -1}):
        assert backend.parse(backend.format(cursor)) == cursor
    assert backend.format({"10": 1, "2": 3}) == "10:1,2:3"
    assert [*backend.parse("10:1,2:3")] == ["10", "2"]
    for id in (
        "",
        "5",
        "0:",
        ":1",
        "0:-2",
        "0:1,",
        "a:1",
        "0:1;1:2",
        "~live",
        "٣:1",
        "0:" + "9" * 30,
    ):
        with pytest.raises(HistoryLostError):
            backend.parse(id)
