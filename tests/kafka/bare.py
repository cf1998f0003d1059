"""The driver without the package."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewPartitions, NewTopic

from servers import Kafka
from tests.kafka.broker import admin_of


@asynccontextmanager
async def bare_producer(port: int, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=f"127.0.0.1:{port}", **options)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def records_of(port: int, topic: str) -> list[Any]:
    """All that a topic holds, by partition."""
    consumer = AIOKafkaConsumer(bootstrap_servers=f"127.0.0.1:{port}", fetch_max_wait_ms=50)
    await consumer.start()
    try:
        partitions = await consumer._client._wait_on_metadata(topic)
        places = [TopicPartition(topic, one) for one in sorted(partitions)]
        ends = await consumer.end_offsets(places)
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        found: list[Any] = []
        while any([await consumer.position(place) < ends[place] for place in places]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += records
        return sorted(found, key=lambda record: (record.partition, record.offset))
    finally:
        await consumer.stop()


async def make_topic(
    server: Kafka, name: str, *, partitions: int = 1, config: Mapping[str, str] | None = None
) -> None:
    async with admin_of(server.port) as admin:
        await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=dict(config or {}))])


async def add_partitions(server: Kafka, name: str, total: int) -> None:
    async with admin_of(server.port) as admin:
        await admin.create_partitions({name: NewPartitions(total)})
