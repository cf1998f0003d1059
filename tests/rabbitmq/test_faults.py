"""amqp:// when the broker dies, freezes, or loses what belongs to it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import aio_pika
import pytest

from fastapi_broadcaster import (
    BackendUnavailableError,
    Broadcaster,
    Gap,
)
from tests.conformance.tools import back, lost, publish_all, reading, until
from tests.rabbitmq.broker import EXCHANGE, RabbitMQBroker


async def test_killed_while_publishing(own_rabbitmq: RabbitMQBroker) -> None:
    """One gap, at the place where acknowledged messages are missing; nothing else is lost."""
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
        target = len(acknowledged) + 100
        await until(lambda: len(acknowledged) >= target)

    async with (
        own_rabbitmq.broadcaster(publish_timeout=30) as broadcaster,
        own_rabbitmq.broadcaster(publish_timeout=30) as other,
        reading(broadcaster.subscribe("room")) as reader,
        reading(broadcaster.subscribe(pattern="ro*")) as pattern,
    ):
        publishing = asyncio.create_task(publish(other))
        await more()
        await own_rabbitmq.kill()
        await lost(broadcaster)
        await own_rabbitmq.restart()
        await back(broadcaster)
        await more()
        enough.set()
        await publishing
        await broadcaster.publish("room", "end")
        await reader.until("end")
        await pattern.until("end")
    assert reader.gaps == [Gap("room", "reconnected")]
    assert pattern.gaps == [Gap("ro*", "reconnected")]
    assert reader.messages == pattern.messages
    at = reader.items.index(reader.gaps[0])
    before = [int(message) for message in reader.messages[:at]]
    after = [int(message) for message in reader.messages[at:-1]]
    assert before == list(range(before[-1] + 1))
    assert after == [number for number in acknowledged if number >= after[0]]
    assert len(before) >= 50  # what was confirmed last may not have come before the end
    assert len(after) >= 50


@pytest.mark.parametrize("publisher", ["own", "other"])
async def test_the_gap_is_never_behind_what_came_after(
    own_rabbitmq: RabbitMQBroker, publisher: str
) -> None:
    """Many outages, under a flood, with patterns and channels that hear the same."""
    async with (
        own_rabbitmq.broadcaster(publish_timeout=30) as broadcaster,
        own_rabbitmq.broadcaster(publish_timeout=30) as other,
        reading(broadcaster.subscribe("a.b")) as exact,
        reading(broadcaster.subscribe(pattern="a.*")) as wide,
        reading(broadcaster.subscribe(pattern="a.b*")) as narrow,
    ):
        flooding = other if publisher == "other" else broadcaster
        heard = 0

        async def flood() -> None:
            for number in range(1_000_000):
                with suppress(BackendUnavailableError):
                    await flooding.publish("a.b", str(number))
                await asyncio.sleep(0)

        task = asyncio.create_task(flood())
        for turn in range(5):
            heard = len(exact.messages)
            await until(lambda: len(exact.messages) > heard + 20)  # noqa: B023
            await own_rabbitmq.drop_clients()
            await until(lambda: broadcaster.health().reconnects >= turn + 1)  # noqa: B023
            await back(broadcaster)
        task.cancel()
        await asyncio.wait([task])
        await broadcaster.publish("a.b", "end")
        for reader in (exact, wide, narrow):
            await reader.until("end")
    for reader in (exact, wide, narrow):
        assert len(reader.gaps) == broadcaster.health().reconnects or len(reader.gaps) == 5
        before = -1
        for item in reader.items:
            if isinstance(item, Gap):
                before = None
            elif item.message != "end":
                assert before is None or int(item.message) == before + 1
                before = int(item.message)


async def test_a_frozen_server_is_noticed(own_rabbitmq: RabbitMQBroker) -> None:
    async with (
        own_rabbitmq.broadcaster(publish_timeout=30) as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        begun = time.monotonic()
        await own_rabbitmq.pause()
        await lost(broadcaster)
        assert time.monotonic() - begun < 20
        await own_rabbitmq.resume()
        await back(broadcaster)
        await publish_all(broadcaster, "room", ["1", "end"])
        await reader.until("end")
    assert reader.items[0] == Gap("room", "reconnected")
    assert reader.messages == ["1", "end"]


async def test_frozen_while_it_should_confirm(own_rabbitmq: RabbitMQBroker) -> None:
    async with own_rabbitmq.broadcaster() as broadcaster:
        await broadcaster.publish("room", "1")
        await own_rabbitmq.pause()
        with pytest.raises(BackendUnavailableError) as refusal:
            await broadcaster.publish("room", "2")
        assert refusal.value.maybe_published is True
        await own_rabbitmq.resume()


async def test_the_exchange_was_deleted(own_rabbitmq: RabbitMQBroker) -> None:
    """It is made again, and the bindings that went with it; the gap is told."""
    async with (
        await aio_pika.connect(own_rabbitmq.amqp_url) as connection,
        own_rabbitmq.broadcaster() as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        channel = await connection.channel()
        await channel.exchange_delete(EXCHANGE)
        with suppress(BackendUnavailableError):
            await broadcaster.publish("room", "lost")
        await until(lambda: broadcaster.health().reconnects)
        await back(broadcaster)
        await broadcaster.publish("room", "end")
        await reader.until("end")
    assert reader.items[0] == Gap("room", "reconnected")


async def test_the_queue_was_deleted(own_rabbitmq: RabbitMQBroker) -> None:
    async with (
        own_rabbitmq.broadcaster() as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        listed = await own_rabbitmq.control("list_queues", "name")
        [queue] = [line for line in listed.splitlines() if line.startswith("amq.gen-")]
        await own_rabbitmq.control("delete_queue", queue)
        await until(lambda: broadcaster.health().reconnects)
        await back(broadcaster)
        await broadcaster.publish("room", "end")
        await reader.until("end")
    assert reader.items[0] == Gap("room", "reconnected")
