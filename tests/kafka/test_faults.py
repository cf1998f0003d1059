"""Brokers that die, freeze, or lose a reply: everything acknowledged is there, and there once."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fastapi_broadcaster import BackendUnavailableError, Broadcaster, Event
from fastapi_broadcaster.backends.kafka import KafkaBackend
from servers import Kafka
from tests.brokers import QUICK
from tests.conformance.tools import PATIENCE, back, lost, publish_all, reading, take_until, until
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
    backend = KafkaBackend(f"127.0.0.1:{own.proxy.port}", timeout=30.0)
    async with Broadcaster(backend=backend, backoff=QUICK) as broadcaster:
        await broadcaster.publish("room", "before")
        own.proxy.lose_reply(b"the lost one", silence=1.5)
        receipt = await broadcaster.publish("room", "the lost one")
        await broadcaster.publish("room", "after")
    records = await records_of(own.direct, "room")
    assert [record.value for record in records] == [b"before", b"the lost one", b"after"]
    assert receipt.id is None or receipt.id.endswith(".0:1")


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
    async with asyncio.timeout(PATIENCE):
        [outcome] = await asyncio.gather(publishing, return_exceptions=True)
    assert isinstance(outcome, BackendUnavailableError)
    await until(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_frozen_broker_is_told_of_within_seconds(
    own: KafkaBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with own.broadcaster() as broadcaster, reading(broadcaster.subscribe("room")) as reader:
        await broadcaster.publish("room", "before")
        begun = time.monotonic()
        await own.pause()
        with pytest.raises(BackendUnavailableError) as refusal:
            await broadcaster.publish("room", "unknown")
        assert refusal.value.maybe_published
        await lost(broadcaster)
        assert time.monotonic() - begun < 20
        assert re.search(r"connection lost \(.*does not answer", caplog.text)
        await own.resume()
        await back(broadcaster)
        await broadcaster.publish("room", "after")
        await reader.until("after")
    assert [one for one in reader.messages if one != "unknown"] == ["before", "after"]
    assert reader.gaps == []


async def test_one_of_two_brokers_is_killed_under_load() -> None:
    """Whoever publishes and subscribes meanwhile loses nothing, and goes on by the other one."""
    names = [f"room.{number}" for number in range(6)]
    acknowledged: dict[str, list[str]] = {name: [] for name in names}
    unknown: list[str] = []
    visits = 0
    running = True

    async def publish(broadcaster: Broadcaster, name: str) -> None:
        for number in itertools.takewhile(lambda _: running, itertools.count()):
            message = f"{number:05}"
            try:
                await broadcaster.publish(name, message)
                acknowledged[name].append(message)
            except BackendUnavailableError:
                unknown.append(f"{name} {message}")

    async def come_and_go(broadcaster: Broadcaster) -> None:
        """Channels that are new, or have been left, and hear what is published on them."""
        nonlocal visits
        for number in itertools.takewhile(lambda _: running, itertools.count()):
            async with broadcaster.subscribe(f"visitor.{number % 9}") as subscriber:
                try:
                    await broadcaster.publish(f"visitor.{number % 9}", f"{number}")
                except BackendUnavailableError:
                    continue
                await take_until(subscriber, f"{number}")
                visits += 1

    with two_brokers() as (first, second):
        url = f"kafka://127.0.0.1:1,127.0.0.1:{first.port}"
        async with (
            Broadcaster(
                url, publish_timeout=90, subscribe_timeout=90, linger=0.0, backoff=QUICK
            ) as broadcaster,
            reading(broadcaster.subscribe(names)) as reader,
        ):
            async with asyncio.TaskGroup() as working:
                for name in names:
                    working.create_task(publish(broadcaster, name))
                working.create_task(come_and_go(broadcaster))
                await until(
                    lambda: all(len(one) >= 50 for one in acknowledged.values()), patience=90
                )
                await asyncio.to_thread(second.kill)
                counts = {name: len(acknowledged[name]) + 50 for name in names}
                enough = visits + 10
                await until(
                    lambda: all(len(acknowledged[one]) > counts[one] for one in names), patience=90
                )
                await until(lambda: visits > enough, patience=90)
                running = False
            for name in names:
                await publish_all(broadcaster, name, ["end"])
            await until(lambda: reader.messages.count("end") == len(names))
            async with broadcaster.subscribe(names[0], history="all") as subscriber:
                log = await take_until(subscriber, "end")
    assert reader.gaps == []
    events = [item for item in reader.items if isinstance(item, Event)]
    for name in names:
        *got, _ = (event.message for event in events if event.channel == name)
        known = {*acknowledged[name]}
        assert [one for one in got if one in known] == acknowledged[name]
        assert max(Counter(got).values()) == 1
        assert {f"{name} {one}" for one in {*got} - known} <= {*unknown}
    assert log == [event.message for event in events if event.channel == names[0]][:-1]


@contextmanager
def two_brokers() -> Iterator[tuple[Kafka, Kafka]]:
    """Each topic has a replica on both; the controller is the first."""
    first = Kafka.private()
    first.replicas = 2
    with first, first.beside() as second:
        yield first, second
