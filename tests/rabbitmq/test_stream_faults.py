"""amqp-stream:// when the log is trimmed or lost, and when the broker dies or refuses."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from aio_pika.abc import AbstractChannel

from fastapi_broadcaster import (
    BackendError,
    BackendUnavailableError,
    Broadcaster,
    Gap,
    HistoryLostError,
    Receipt,
)
from tests.conformance.tools import (
    back,
    lost,
    publish_all,
    reading,
    take_until,
    until,
)
from tests.rabbitmq.broker import RabbitMQBroker, RabbitMQStreamBroker, stream


async def test_what_was_trimmed_is_told(rabbitmq: RabbitMQBroker, name: str) -> None:
    async with stream(rabbitmq, max_bytes=40_000, segment_bytes=10_000) as broadcaster:
        await publish_all(broadcaster, name, [str(number) for number in range(800)])
        for id in ("0", "5", "-1"):
            async with broadcaster.subscribe(name, after=id) as subscriber:
                stream_of = subscriber.stream()
                first, second = await anext(stream_of), await anext(stream_of)
                await stream_of.aclose()
                assert first == Gap(name, "expired")
                assert not isinstance(second, Gap)
                assert second.message == str(int(second.message))
                assert int(second.message) > 100
            with pytest.raises(HistoryLostError) as error:
                await broadcaster.channel(name).page(after=id)
            assert error.value.reason == "expired"
        page = await broadcaster.channel(name).page(limit=10)
        assert [event.message for event in page.items] == [str(one) for one in range(790, 800)]


async def test_a_stream_deleted_under_a_live_subscriber(
    rabbitmq: RabbitMQBroker, pika: AbstractChannel, name: str
) -> None:
    async with (
        stream(rabbitmq) as broadcaster,
        reading(broadcaster.subscribe([name, f"{name}.other"])) as reader,
    ):
        await publish_all(broadcaster, name, ["1", "2", "3"])
        await reader.until("3")
        await pika.queue_delete(name)
        await until(lambda: broadcaster.health().reconnects)
        await back(broadcaster)
        await publish_all(broadcaster, name, ["4", "end"])
        await reader.until("end")
        with pytest.raises(HistoryLostError) as error:
            await broadcaster.channel(name).page(after="2")
        assert error.value.reason == "reset"
    assert [item if isinstance(item, Gap) else item.message for item in reader.items] == [
        *("1", "2", "3"),
        Gap(name, "reset"),
        *("4", "end"),
    ]


async def test_a_stream_deleted_before_a_publish(
    rabbitmq: RabbitMQBroker, pika: AbstractChannel, name: str
) -> None:
    """It is made anew: what is acknowledged is in the log."""
    async with stream(rabbitmq) as broadcaster:
        await broadcaster.publish(name, "1")
        await pika.queue_delete(name)
        await asyncio.gather(*(broadcaster.publish(name, str(number)) for number in range(20)))
        page = await broadcaster.channel(name).page()
        assert [event.message for event in page.items] == [str(number) for number in range(20)]


async def test_killed_while_publishing(own_rabbitmq_stream: RabbitMQStreamBroker) -> None:
    """No acknowledged message is lost, none comes twice, and there is no gap."""
    broker = own_rabbitmq_stream
    acknowledged: list[int] = []
    enough = asyncio.Event()

    async def publish(broadcaster: Broadcaster) -> None:
        number = 0
        while not enough.is_set():
            with suppress(BackendUnavailableError):
                await broadcaster.publish("room", str(number))
                acknowledged.append(number)
            number += 1
            await asyncio.sleep(0.001)

    async def more() -> None:
        target = len(acknowledged) + 200
        await until(lambda: len(acknowledged) >= target)

    async with (
        broker.broadcaster(publish_timeout=30) as broadcaster,
        broker.broadcaster(publish_timeout=30) as other,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        publishing = asyncio.create_task(publish(other))
        await more()
        await broker.kill()
        await lost(broadcaster)
        await broker.restart()
        await back(broadcaster)
        await more()
        enough.set()
        await publishing
        await broadcaster.publish("room", "end")
        await reader.until("end")
        async with broadcaster.subscribe("room", history="all") as later:
            assert await take_until(later, "end") == reader.messages[:-1]
    received = [int(message) for message in reader.messages[:-1]]
    assert reader.gaps == []
    assert received == sorted(set(received))
    assert set(received) >= set(acknowledged)


async def test_live_behind_the_trimmed_part(own_rabbitmq_stream: RabbitMQStreamBroker) -> None:
    """Away while the log outran it: told when it is back, and at that place."""
    broker = own_rabbitmq_stream
    frozen = asyncio.Event()
    async with (
        broker.broadcaster(log_size=100, publish_timeout=30) as broadcaster,
        broker.broadcaster(log_size=100, publish_timeout=30) as other,
    ):
        listen = broadcaster.backend.listen

        async def listen_late() -> Any:
            await frozen.wait()
            async for batch in listen():
                yield batch

        async with reading(broadcaster.subscribe("room")) as reader:
            await broadcaster.publish("room", "first")
            await reader.until("first")
            broadcaster.backend.listen = listen_late  # type: ignore[method-assign]
            await broker.drop_clients()
            await lost(broadcaster)
            await publish_all(other, "room", [str(number) * 100 for number in range(1_500)])
            frozen.set()
            await back(broadcaster)
            await other.publish("room", "end")
            await reader.until("end")
    assert reader.items[1] == Gap("room", "expired")
    assert set(reader.gaps) == {Gap("room", "expired")}  # the broker may trim once more, later
    last = max(at for at, item in enumerate(reader.items) if isinstance(item, Gap))
    received = reader.messages[-(len(reader.items) - last - 1) : -1]
    assert received == [str(number) * 100 for number in range(1_500)][-len(received) :]


async def test_a_refused_stream_fails_only_its_own_caller(
    own_rabbitmq_stream: RabbitMQStreamBroker,
) -> None:
    await own_rabbitmq_stream.refuse_all_but("ok.")
    names = ["ok.1", "ok.2", "bad.1", "ok.1", "bad.2", "ok.3"]
    async with own_rabbitmq_stream.broadcaster() as broadcaster:
        outcomes = await asyncio.gather(
            *(broadcaster.publish(name, name) for name in names), return_exceptions=True
        )
    for name, outcome in zip(names, outcomes, strict=True):
        if name.startswith("ok."):
            assert outcome == Receipt(channel=name)
        else:
            assert isinstance(outcome, BackendError)
            assert not isinstance(outcome, BackendUnavailableError)
            assert f"'{name}'" in str(outcome)


async def test_a_stream_that_may_not_be_read(own_rabbitmq_stream: RabbitMQStreamBroker) -> None:
    """The server closes the channel of all consumers over it; the others come back."""
    broker = own_rabbitmq_stream
    await broker.control("set_permissions", "guest", ".*", ".*", "^ok.*")
    async with broker.broadcaster() as broadcaster, reading(broadcaster.subscribe("ok")) as reader:
        with pytest.raises(BackendError, match="refused"):
            await broadcaster.subscribe("secret").__aenter__()
        await broadcaster.publish("ok", "end")
        await reader.until("end")
    assert reader.gaps == []
