"""What amqp-stream:// does in the broker: a stream per channel, its limits, who takes part."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel

from fastapi_broadcaster import (
    BackendError,
    Broadcaster,
    ChannelNameError,
    UnsupportedError,
)
from fastapi_broadcaster.backends import create_backend
from tests.conformance.tools import (
    publish_all,
    reading,
    take,
    until,
)
from tests.rabbitmq.broker import RabbitMQBroker, RabbitMQStreamBroker, stream

STREAM: dict[str, Any] = {"x-queue-type": "stream"}


async def test_what_bare_aio_pika_publishes_is_heard_and_kept(
    rabbitmq: RabbitMQBroker, pika: AbstractChannel, name: str
) -> None:
    async with stream(rabbitmq) as broadcaster, broadcaster.subscribe(name) as subscriber:
        for text in ("plain", "ü", ""):
            await pika.default_exchange.publish(aio_pika.Message(text.encode()), routing_key=name)
        assert await take(subscriber, 3) == ["plain", "ü", ""]
        async with broadcaster.subscribe(name, history="all") as later:
            assert await take(later, 3) == ["plain", "ü", ""]


async def test_bare_aio_pika_reads_the_stream(
    rabbitmq: RabbitMQBroker, pika: AbstractChannel, name: str
) -> None:
    """The plain payload; ids are offsets; the time is in a header."""
    async with stream(rabbitmq) as broadcaster:
        await publish_all(broadcaster, name, ["1", "ü"])
        page = await broadcaster.channel(name).page()
        await pika.set_qos(prefetch_count=10)
        queue = await pika.get_queue(name, ensure=False)
        found: list[aio_pika.abc.AbstractIncomingMessage] = []
        arguments: dict[str, Any] = {"x-stream-offset": "first"}
        async with queue.iterator(arguments=arguments, timeout=30) as messages:
            while len(found) < 2:
                found.append(await anext(messages))
                await found[-1].ack()
    assert [one.body for one in found] == [b"1", "ü".encode()]
    assert [str(one.headers["x-stream-offset"]) for one in found] == ["0", "1"]
    assert [str(event.id).partition(".")[2] for event in page.items] == ["0", "1"]
    times = [event.time for event in page.items]
    assert [round(time.timestamp() * 1000) for time in times if time is not None] == [
        one.headers["timestamp_in_ms"] for one in found
    ]


async def test_a_stream_that_somebody_else_made(
    rabbitmq: RabbitMQBroker, pika: AbstractChannel, name: str
) -> None:
    """It keeps its own limits."""
    await pika.declare_queue(name, durable=True, arguments=STREAM)
    async with stream(rabbitmq) as broadcaster, broadcaster.subscribe(name) as subscriber:
        await broadcaster.publish(name, "hello")
        assert await take(subscriber, 1) == ["hello"]


async def test_a_queue_that_is_no_stream(
    rabbitmq: RabbitMQBroker, pika: AbstractChannel, name: str
) -> None:
    """Subscribing says so; the others of the same batch are live."""
    await pika.declare_queue(name, durable=True)
    async with stream(rabbitmq) as broadcaster:
        good = broadcaster.subscribe(f"{name}.good")
        bad = broadcaster.subscribe(name)
        outcomes = await asyncio.gather(good.__aenter__(), bad.__aenter__(), return_exceptions=True)
        assert isinstance(outcomes[1], BackendError)
        assert f"'{name}' is there and is no stream" in str(outcomes[1])
        assert not isinstance(outcomes[0], BaseException)
        await broadcaster.publish(f"{name}.good", "hello")
        assert await take(outcomes[0], 1) == ["hello"]
        await good.__aexit__(None, None, None)
    await pika.queue_delete(name)


async def test_limits_of_the_stream(rabbitmq: RabbitMQBroker, name: str) -> None:
    async with stream(rabbitmq, max_bytes=80_000, max_age=60, prefix="app.") as broadcaster:
        await broadcaster.publish(name, "hello")
    listed = await rabbitmq.control("list_queues", "name", "type", "arguments")
    [line] = [line for line in listed.splitlines() if line.startswith(f"app.{name}\t")]
    assert "\tstream\t" in line
    for text in (
        '"x-max-length-bytes",80000',
        '"x-max-age","60s"',
        '"x-stream-max-segment-size-bytes",10000',
    ):
        assert text in line.replace('signedint,"', "").replace('longstr,"', '"') or all(
            part.strip('"') in line for part in text.split(",")
        )


async def test_all_is_read_over_holes_of_the_offsets(rabbitmq: RabbitMQBroker, name: str) -> None:
    """The server uses offsets of its own where a segment ends: no gap, and no seam."""
    messages = [str(number) for number in range(600)]
    async with (
        stream(rabbitmq, segment_bytes=10_000) as broadcaster,
        reading(broadcaster.subscribe(name)) as reader,
    ):
        await publish_all(broadcaster, name, messages)
        async with broadcaster.subscribe(name, history="all", buffer_size=50) as subscriber:
            assert await take(subscriber, 600) == messages
            assert subscriber.gaps == 0
        await reader.until("599")
        assert reader.messages == messages
        assert reader.gaps == []
        ids = {event.id for event in (await broadcaster.channel(name).page()).items}
        everything = await broadcaster.channel(name).page(limit=1_000)
    assert len(everything.items) == 600
    assert int(str(everything.items[-1].id).partition(".")[2]) > 599  # there were holes
    assert len(ids) == 100


async def test_a_busy_stream_is_read_to_its_end(rabbitmq: RabbitMQBroker, name: str) -> None:
    """Its first entry may come late: no page is shorter for it, no newcomer hears what is old."""
    answered = 0

    async def flood(broadcaster: Broadcaster) -> None:
        nonlocal answered
        while True:
            batch = [f"{answered + one} {'x' * 1_000}" for one in range(300)]
            await publish_all(broadcaster, name, batch)
            answered += len(batch)

    url = rabbitmq.amqp_url.replace("amqp:", "amqp-stream:", 1)
    async with stream(rabbitmq) as writing, Broadcaster(url, linger=0.0) as broadcaster:
        flooding = asyncio.create_task(flood(writing))
        try:
            await until(lambda: answered > 1_000)
            for _ in range(60):
                page = await broadcaster.channel(name).page(limit=10)
                assert len(page.items) == 10
                before = answered
                async with broadcaster.subscribe(name) as subscriber:
                    first = (await subscriber.get()).message
                assert int(first.split()[0]) >= before
                await until(lambda: broadcaster.health().subscribers == 0)
        finally:
            flooding.cancel()
            await asyncio.wait([flooding])


async def test_history_by_age_is_exact_to_the_millisecond(
    rabbitmq: RabbitMQBroker, pika: AbstractChannel, name: str
) -> None:
    """Of messages that tell their time; the others come with their block."""
    async with stream(rabbitmq) as broadcaster:
        await pika.declare_queue(name, durable=True, arguments=STREAM)
        minute_ago = round((time.time() - 60) * 1000)
        old = aio_pika.Message(b"old", headers={"timestamp_in_ms": minute_ago})
        await pika.default_exchange.publish(old, routing_key=name)
        await broadcaster.publish(name, "young")
        async with broadcaster.subscribe(name, history=timedelta(seconds=55)) as subscriber:
            assert await take(subscriber, 1) == ["young"]
        async with broadcaster.subscribe(name, history=timedelta(hours=1)) as subscriber:
            assert await take(subscriber, 2) == ["old", "young"]


async def test_unsubscribing_one_leaves_the_others(
    own_rabbitmq_stream: RabbitMQStreamBroker,
) -> None:
    async with (
        own_rabbitmq_stream.broadcaster(linger=0.0) as broadcaster,
        reading(broadcaster.subscribe("stays")) as reader,
    ):
        async with broadcaster.subscribe(["goes", "goes.too"]):
            consumed = await own_rabbitmq_stream.subscriptions()
            assert consumed == {"stays", "goes", "goes.too"}

        async def gone() -> bool:
            return await own_rabbitmq_stream.subscriptions() == {"stays"}

        await until(gone)
        await broadcaster.publish("goes", "not heard")
        await broadcaster.publish("stays", "end")
        await reader.until("end")
    assert reader.messages == ["end"]


async def test_names(rabbitmq: RabbitMQBroker) -> None:
    """The longest one works, and whatever the server or the driver could not carry is refused."""
    longest = "a b:@#,/+-_." + "x" * (233 - 2 - 12)
    async with (
        stream(rabbitmq, prefix="p.") as broadcaster,
        broadcaster.subscribe(longest) as subscriber,
    ):
        await broadcaster.publish(longest, "hello")
        assert await take(subscriber, 1) == ["hello"]
        with pytest.raises(ChannelNameError, match="at most 233 bytes"):
            await broadcaster.publish(longest + "x", "hello")
    async with stream(rabbitmq) as broadcaster:
        for refused, text in {"amq.mine": r"amq\.", "ü": "ASCII", "a*": "ASCII"}.items():
            with pytest.raises(ChannelNameError, match=text):
                await broadcaster.publish(refused, "hello")
        with pytest.raises(UnsupportedError, match="pattern"):
            broadcaster.subscribe(pattern="a*")


def test_the_url_is_read() -> None:
    backend = create_backend("amqp-stream://me:secret@host/v?max_bytes=1000&max_age=60&prefix=a.")
    assert str(backend) == "amqp-stream://host:5672 (vhost 'v')"
    assert str(create_backend("amqps-stream://host")) == "amqps-stream://host:5671 (vhost '/')"
    for option in ("max_bytes=many", "max_bytes=0", "max_length=5", "max_age=-1"):
        with pytest.raises(ValueError, match=r"max_"):
            create_backend(f"amqp-stream://me:secret@host/?{option}")
