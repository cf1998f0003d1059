"""Brokers that die, freeze, or lose a reply: everything acknowledged is there, and there once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from fastapi_broadcaster import BackendUnavailableError, Broadcaster
from fastapi_broadcaster.backends.kafka import KafkaBackend
from servers import Kafka
from tests.brokers import QUICK
from tests.conformance.tools import back, lost, publish_all, reading, take, until
from tests.kafka.bare import records_of
from tests.kafka.broker import KafkaBroker


async def test_killed_while_publishing(own: KafkaBroker) -> None:
    acknowledged: list[str] = []
    unknown: list[str] = []

    async def publish(broadcaster: Broadcaster, number: int) -> None:
        for count in range(60):
            message = f"{number} {count}"
            try:
                await broadcaster.publish("room", message)
                acknowledged.append(message)
            except BackendUnavailableError as error:
                if error.maybe_published:
                    unknown.append(message)

    async with (
        own.broadcaster(publish_timeout=30) as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        publishing = [asyncio.create_task(publish(broadcaster, one)) for one in range(8)]
        await until(lambda: len(acknowledged) > 100)
        await own.kill()
        await own.restart()
        await asyncio.gather(*publishing)
        await broadcaster.publish("room", "end")
        await reader.until("end")
    heard = reader.messages[:-1]
    assert max(Counter(heard).values()) == 1
    assert set(acknowledged) <= set(heard) <= {*acknowledged, *unknown}
    assert reader.gaps == []
    for number in range(8):
        kept = [one for one in heard if one.startswith(f"{number} ")]
        assert kept == sorted(kept, key=lambda one: int(one.split()[1]))


async def test_a_lost_reply_is_asked_for_again_and_the_message_is_there_once(
    own: KafkaBroker,
) -> None:
    """The driver may repeat what the broker knows by its number."""
    async with own.broadcaster() as broadcaster:
        await broadcaster.publish("room", "before")
        own.proxy.lose_reply(b"the lost one")
        receipt = await broadcaster.publish("room", "the lost one")
        await broadcaster.publish("room", "after")
    records = await records_of(own.direct, "room")
    assert [record.value for record in records] == [b"before", b"the lost one", b"after"]
    assert receipt.id in ("0:1", None)


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_disconnecting_while_a_message_is_on_its_way(own: KafkaBroker, fault: str) -> None:
    before = len(asyncio.all_tasks())
    broadcaster = own.broadcaster()
    await broadcaster.connect()
    await broadcaster.publish("room", "before")
    await getattr(own, fault)()
    publishing = asyncio.create_task(broadcaster.publish("room", "into the void"))
    await asyncio.sleep(0.2)  # what lets it leave
    begun = time.monotonic()
    await broadcaster.disconnect()
    assert time.monotonic() - begun < 15
    async with asyncio.timeout(10):
        [outcome] = await asyncio.gather(publishing, return_exceptions=True)
    assert isinstance(outcome, BackendUnavailableError)
    await until(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_frozen_broker_is_told_of_within_seconds(own: KafkaBroker) -> None:
    async with own.broadcaster() as broadcaster, reading(broadcaster.subscribe("room")) as reader:
        await broadcaster.publish("room", "before")
        begun = time.monotonic()
        await own.pause()
        with pytest.raises(BackendUnavailableError) as refusal:
            await broadcaster.publish("room", "unknown")
        assert refusal.value.maybe_published
        await lost(broadcaster)
        assert time.monotonic() - begun < 8
        assert "does not answer" in (broadcaster.health().last_error or "")
        await own.resume()
        await back(broadcaster)
        await broadcaster.publish("room", "after")
        await reader.until("after")
    assert [one for one in reader.messages if one != "unknown"] == ["before", "after"]
    assert reader.gaps == []


async def test_two_brokers_one_address_dead_then_one_killed() -> None:
    """What was acknowledged survives the death of a broker, and goes on through the other."""
    first = Kafka.private()
    first.replicas = 2
    with first:
        second = first.second()
        with second:
            servers = f"127.0.0.1:1,127.0.0.1:{first.port},127.0.0.1:{second.port}"
            backend = KafkaBackend(servers)
            names = [f"room.{number}" for number in range(6)]
            async with (
                Broadcaster(backend=backend, publish_timeout=30, backoff=QUICK) as broadcaster,
                reading(broadcaster.subscribe(names)) as reader,
            ):
                for name in names:
                    await publish_all(broadcaster, name, [f"{name} before"])
                await until(lambda: len(reader.messages) == 6)
                await asyncio.to_thread(second.kill)
                for name in names:
                    await publish_all(broadcaster, name, [f"{name} after"])
                await until(lambda: len(set(reader.messages)) == 12)
                assert len(reader.messages) == 12
                assert reader.gaps == []
                async with broadcaster.subscribe(names[0], history="all") as subscriber:
                    assert await take(subscriber, 2) == [f"{names[0]} before", f"{names[0]} after"]
