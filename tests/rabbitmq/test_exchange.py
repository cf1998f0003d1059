"""What amqp:// does in the broker: an exchange, a queue, bindings, and who else may take part."""

from __future__ import annotations

import asyncio

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel

from fastapi_broadcaster import Broadcaster, ChannelNameError, Event
from fastapi_broadcaster.backends import create_backend
from fastapi_broadcaster.backends._rabbitmq_listening import key_of
from fastapi_broadcaster.backends.rabbitmq import RabbitMQBackend
from tests.conformance.tools import publish_all, reading, take, take_until, until
from tests.rabbitmq.broker import EXCHANGE, RabbitMQBroker


async def test_what_bare_aio_pika_publishes_is_heard(
    rabbitmq: RabbitMQBroker, pika: AbstractChannel, name: str
) -> None:
    async with rabbitmq.broadcaster() as broadcaster, broadcaster.subscribe(name) as subscriber:
        exchange = await pika.get_exchange(EXCHANGE)
        for text in ("plain", "ü", ""):
            await exchange.publish(aio_pika.Message(text.encode()), routing_key=name)
        assert await take(subscriber, 3) == ["plain", "ü", ""]


async def test_bare_aio_pika_hears_what_is_published(
    rabbitmq: RabbitMQBroker, pika: AbstractChannel, name: str
) -> None:
    """The plain payload, the channel as routing key."""
    async with rabbitmq.broadcaster() as broadcaster:
        queue = await pika.declare_queue(exclusive=True)
        await queue.bind(EXCHANGE, f"{name}.*")
        await broadcaster.publish(f"{name}.a", "hello")
        await broadcaster.publish(f"{name}.b", "ü")
        async with queue.iterator(timeout=30) as messages:
            found = [(await anext(messages)) for _ in range(2)]
    assert [(one.routing_key, one.body) for one in found] == [
        (f"{name}.a", b"hello"),
        (f"{name}.b", "ü".encode()),
    ]


async def test_a_topic_exchange_that_outlives_the_server(rabbitmq: RabbitMQBroker) -> None:
    async with rabbitmq.broadcaster():
        listed = await rabbitmq.control("list_exchanges", "name", "type", "durable")
    assert f"{EXCHANGE}\ttopic\ttrue" in listed.splitlines()


async def test_an_exchange_of_ones_own(rabbitmq: RabbitMQBroker, name: str) -> None:
    url = f"{rabbitmq.url}?exchange={name}"
    async with (
        Broadcaster(url) as broadcaster,
        rabbitmq.broadcaster() as other,
        broadcaster.subscribe("room") as subscriber,
        other.subscribe("room") as elsewhere,
    ):
        await broadcaster.publish("room", "here")
        await other.publish("room", "there")
        assert await take_until(elsewhere, "there") == []
        assert await take(subscriber, 1) == ["here"]


async def test_one_queue_for_all_subscriptions(own_rabbitmq: RabbitMQBroker) -> None:
    names = [f"room.{number}" for number in range(2_000)]
    async with (
        own_rabbitmq.broadcaster(linger=0.0, subscribe_timeout=60) as broadcaster,
        broadcaster.subscribe(names) as subscriber,
        broadcaster.subscribe(names[0]),
        broadcaster.subscribe(pattern="hall.*"),
    ):
        listed = await own_rabbitmq.control("list_queues", "name", "exclusive", "auto_delete")
        [queue] = [line for line in listed.splitlines() if line.startswith("amq.gen-")]
        assert queue.endswith("\ttrue\ttrue")
        assert await own_rabbitmq.subscriptions() == {*names, "hall.#"}
        await broadcaster.publish(names[-1], "hello")
        assert await subscriber.get() == Event(names[-1], "hello")


async def test_nothing_is_left_after_linger(own_rabbitmq: RabbitMQBroker) -> None:
    """Of channels and patterns, as rabbitmqctl sees it."""
    async with own_rabbitmq.broadcaster(linger=0.0) as broadcaster:
        async with (
            broadcaster.subscribe(["a", "b"]),
            broadcaster.subscribe(pattern="a.*"),
            broadcaster.subscribe(pattern="a.b*"),
            broadcaster.subscribe("a.#"),
        ):
            listed = await own_rabbitmq.control("list_bindings", "source_name", "routing_key")
            bound = [line for line in listed.splitlines() if line.startswith(EXCHANGE)]
            assert sorted(bound) == [f"{EXCHANGE}\t{key}" for key in ("a", "a.#", "b")]

        async def gone() -> bool:
            return EXCHANGE not in await own_rabbitmq.control("list_bindings", "source_name")

        await until(gone)


async def test_unsubscribing_one_leaves_the_others(rabbitmq: RabbitMQBroker, name: str) -> None:
    """Also where a binding serves two of them."""
    async with rabbitmq.broadcaster(linger=0.0) as broadcaster:
        async with (
            reading(broadcaster.subscribe(f"{name}.stays")) as stays,
            reading(broadcaster.subscribe(pattern=f"{name}.p*")) as pattern,
        ):
            async with (
                broadcaster.subscribe(f"{name}.goes"),
                broadcaster.subscribe(pattern=f"{name}.q*"),
                broadcaster.subscribe(f"{name}.#"),
            ):
                pass

            async def gone() -> bool:
                return f"{name}.goes" not in await rabbitmq.subscriptions()

            await until(gone)
            await publish_all(broadcaster, f"{name}.stays", ["1", "end"])
            await publish_all(broadcaster, f"{name}.pq", ["2", "end"])
            await stays.until("end")
            await pattern.until("end")
        assert stays.messages == ["1", "end"]
        assert pattern.messages == ["2", "end"]


@pytest.mark.parametrize("word", ["#", "*", "a.#.b", "a.*.b"])
async def test_names_that_look_like_bindings(
    rabbitmq: RabbitMQBroker, name: str, word: str
) -> None:
    """They are bound as they stand, which brings more; the hub keeps what is theirs."""
    channel = f"{name}.{word}"
    async with rabbitmq.broadcaster() as broadcaster, broadcaster.subscribe(channel) as subscriber:
        for other in ("a", "x", "a.b", "a.x.b"):
            await broadcaster.publish(f"{name}.{other}", "of another")
        await broadcaster.publish(channel, "end")
        assert await take_until(subscriber, "end") == []


async def test_a_message_comes_once_however_many_bindings_match(
    rabbitmq: RabbitMQBroker, name: str
) -> None:
    async with (
        rabbitmq.broadcaster() as broadcaster,
        reading(broadcaster.subscribe(f"{name}.a.b")) as exact,
        reading(broadcaster.subscribe(pattern=f"{name}.a.*")) as narrow,
        reading(broadcaster.subscribe(pattern=f"{name}.*")) as wide,
        reading(broadcaster.subscribe(pattern="*")) as all,
    ):
        readers = (exact, narrow, wide, all)
        await publish_all(broadcaster, f"{name}.a.b", ["1", "2", "end"])
        for reader in readers:
            await reader.until("end")
            assert reader.messages == ["1", "2", "end"]


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("*", "#"),
        ("a*", "#"),
        ("a.*", "a.#"),
        ("a.b.c*", "a.b.#"),
        ("a.[bc].d", "a.#"),
        ("a.b?", "a.#"),
        ("a.\\*", "a.#"),
        ("a.b", "a.b"),
        ("a..*", "a..#"),
    ],
)
def test_what_a_pattern_binds(pattern: str, key: str) -> None:
    assert key_of((pattern, True)) == key


async def test_names_of_255_bytes(rabbitmq: RabbitMQBroker, name: str) -> None:
    longest = f"{name}." + "ü" * ((254 - len(name)) // 2)
    async with (
        rabbitmq.broadcaster() as broadcaster,
        broadcaster.subscribe(longest) as subscriber,
        broadcaster.subscribe(pattern=f"{longest}*") as pattern,
    ):
        await broadcaster.publish(longest, "hello")
        assert await take(subscriber, 1) == await take(pattern, 1) == ["hello"]
        for too_long in (longest + "üü", "x" * 256):
            with pytest.raises(ChannelNameError, match="255 bytes"):
                await broadcaster.publish(too_long, "hello")
            with pytest.raises(ChannelNameError, match="255 bytes"):
                broadcaster.subscribe(too_long)


async def test_a_pattern_that_binds_too_much(rabbitmq: RabbitMQBroker, name: str) -> None:
    """Refused when it is subscribed, alone, and for whoever asked."""
    async with rabbitmq.broadcaster() as broadcaster:
        too_long = broadcaster.subscribe(pattern="x" * 254 + ".y.*")
        good = broadcaster.subscribe(pattern=f"{name}*")
        outcomes = await asyncio.gather(
            too_long.__aenter__(), good.__aenter__(), return_exceptions=True
        )
        assert isinstance(outcomes[0], ChannelNameError)
        assert not isinstance(outcomes[1], BaseException)
        await broadcaster.publish(name, "hello")
        assert await take(outcomes[1], 1) == ["hello"]
        await good.__aexit__(None, None, None)


async def test_binary_and_large_messages(rabbitmq: RabbitMQBroker, name: str) -> None:
    """More than a frame of 128 KiB."""
    data = bytes(range(256)) * 4_000
    async with rabbitmq.broadcaster() as broadcaster:
        channel = broadcaster.channel(name, bytes)
        async with channel.subscribe() as subscriber:
            for one in (data, b"", b"\x00"):
                await channel.publish(one)
            assert [(await subscriber.get()).message for _ in range(3)] == [data, b"", b"\x00"]


def test_the_url_is_read() -> None:
    backend = create_backend("amqp://me:secret@host/a%2Fb?exchange=x&heartbeat=5")
    assert isinstance(backend, RabbitMQBackend)
    assert str(backend) == "amqp://host:5672 (vhost 'a/b')"
    assert str(create_backend("amqps://host")) == "amqps://host:5671 (vhost '/')"
    for option in ("exchnage=x", "timeout=5"):
        with pytest.raises(ValueError, match="unknown option") as error:
            create_backend(f"amqp://me:secret@host/?{option}")
        assert "secret" not in str(error.value)
