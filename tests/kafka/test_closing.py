"""What a generation finds out when it is over already is found out by the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from aiokafka.errors import NodeNotReadyError

from fastapi_broadcaster import ConnectionLostError, Gap
from fastapi_broadcaster.backends import _kafka_driver as driver
from fastapi_broadcaster.backends._kafka_listening import Listening
from fastapi_broadcaster.backends.kafka import KafkaBackend
from servers import Kafka
from tests.conformance.tools import PATIENCE, lost, publish_all, reading, until
from tests.kafka.bare import bare_producer, make_topic
from tests.kafka.broker import KafkaBroker, delete_records


async def test_a_gap_that_it_was_about_to_tell(
    own: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsets, asked = Listening._offsets, list[tuple[Listening, int]]()

    async def ask_until_it_is_over(self: Listening, topics: Mapping[str, Any], at: int) -> Any:
        found = await offsets(self, topics, at)
        asked.append((self, at))
        if asked == [(self, driver.LATEST), (self, driver.EARLIEST), (self, driver.LATEST)]:
            self._lose(ConnectionLostError("just then"))

            def is_over() -> bool:
                assert isinstance(backend, KafkaBackend)
                return backend._listening is not self

            await until(is_over)
        return found

    open_it, trimmed = Listening.open, asyncio.Event()

    async def open_later(self: Listening) -> None:
        await trimmed.wait()
        await open_it(self)

    async with (
        own.broadcaster(publish_timeout=60) as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        backend = broadcaster.backend
        await publish_all(broadcaster, "room", ["a"])
        await reader.until("a")
        monkeypatch.setattr(Listening, "open", open_later)
        await own.drop_clients()
        await lost(broadcaster)
        async with bare_producer(own.direct) as producer:
            for message in (b"b", b"c", b"d"):
                await producer.send_and_wait("room", message)
        await delete_records(own.direct, "room", 3)
        monkeypatch.setattr(Listening, "_offsets", ask_until_it_is_over)
        trimmed.set()
        await reader.until("d")
    assert reader.gaps == [Gap("room", "expired")]
    assert reader.messages == ["a", "d"]


async def test_a_producer_that_looks_for_its_broker(server: Kafka, name: str) -> None:
    """The driver would wait for ever for what its client finds out, which is closed by then."""
    await make_topic(server, name)
    producer = driver.producer([f"127.0.0.1:{server.port}"], timeout=5.0, security={})
    await producer.start()
    client: Any = producer.client
    close, sending, closed = client.close, asyncio.Event(), asyncio.Event()

    async def close_and_tell() -> None:
        await close()
        closed.set()

    async def send(*arguments: object, **options: object) -> None:
        sending.set()
        await closed.wait()
        await client.force_metadata_update()
        raise NodeNotReadyError

    client.close, client.send = close_and_tell, send
    answer = await producer.send(name, b"hello", b"key")
    await sending.wait()
    closing = asyncio.create_task(driver.close_producer(producer, patience=0))
    await asyncio.wait([closing], timeout=PATIENCE)
    in_time = closing.done()
    if not in_time:  # it lets nobody cancel it
        client._md_update_fut.set_result(False)
        await closing
    assert in_time
    assert answer.done()
