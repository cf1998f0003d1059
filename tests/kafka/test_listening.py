"""One consumer without a group, whose positions are the backend's own."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import pairwise

from fastapi_broadcaster import Broadcaster, Gap
from servers import Kafka
from tests.conformance.tools import back, lost, publish_all, reading, take, until
from tests.kafka.bare import add_partitions, bare_producer, make_topic
from tests.kafka.broker import KafkaBroker, admin_of, delete_records


async def test_channels_come_and_go_under_a_flood(
    server: Kafka, broadcaster: Broadcaster, name: str
) -> None:
    """Nothing is lost or doubled on the flooded one, and each newcomer hears all of its own."""
    flood = [str(number) for number in range(20_000)]

    async def publish() -> None:
        async with bare_producer(server.port) as producer:
            for number in flood:
                await producer.send(name, number.encode())
            await producer.flush()
            await producer.send_and_wait(name, b"end")

    async with (
        Broadcaster(server.url, linger=0.0) as other,
        reading(other.subscribe(name)) as reader,
    ):
        publishing = asyncio.create_task(publish())
        for number in range(40):
            channel = f"{name}.{number}"
            async with other.subscribe(channel) as newcomer:
                await publish_all(broadcaster, channel, ["1", "2", "3"])
                assert await take(newcomer, 3) == ["1", "2", "3"]
        await publishing
        await reader.until("end")
    assert reader.gaps == []
    assert reader.messages == [*flood, "end"]


async def test_unsubscribing_one_leaves_the_others(server: Kafka, name: str) -> None:
    names = [f"{name}.{number}" for number in range(10)]
    async with (
        Broadcaster(server.url, linger=0.0) as broadcaster,
        reading(broadcaster.subscribe(names[1:])) as reader,
    ):
        async with broadcaster.subscribe(names[0]):
            await publish_all(broadcaster, names[5], ["before"])
        for turn in range(20):
            for one in names:
                await broadcaster.publish(one, f"{turn} {one}")
        wanted = {f"{turn} {one}" for turn in range(20) for one in names[1:]} | {"before"}
        await until(lambda: len(reader.messages) >= len(wanted))
    assert sorted(reader.messages) == sorted(wanted)


async def test_no_group_is_left(server: Kafka, broadcaster: Broadcaster, name: str) -> None:
    async with broadcaster.subscribe(name, history=5) as subscriber:
        await broadcaster.publish(name, "hello")
        assert await take(subscriber, 1) == ["hello"]
    async with admin_of(server.port) as admin:
        assert await admin.list_consumer_groups() == []


async def test_topics_that_come_later_are_heard_from_their_start(
    server: Kafka, broadcaster: Broadcaster, name: str
) -> None:
    await make_topic(server, f"{name}.old")
    await broadcaster.publish(f"{name}.old", "before")
    async with (
        reading(broadcaster.subscribe(pattern=f"{name}.*")) as reader,
        bare_producer(server.port) as producer,
    ):
        for number in range(5):
            await make_topic(server, f"{name}.{number}", partitions=number + 1)
            for count in range(20):
                await producer.send_and_wait(f"{name}.{number}", f"{number} {count}".encode())
        await producer.send_and_wait(f"{name}.old", b"now")
        await until(lambda: len(reader.messages) == 101)
    wanted = [f"{number} {count}" for number in range(5) for count in range(20)]
    assert sorted(reader.messages) == sorted([*wanted, "now"])
    assert reader.gaps == []


async def test_a_pattern_goes_on_behind_an_outage(own: KafkaBroker) -> None:
    """Topics that were made meanwhile included; what a channel heard through it too, once."""
    async with (
        own.broadcaster(publish_timeout=30) as broadcaster,
        reading(broadcaster.subscribe(pattern="*")) as every,
        reading(broadcaster.subscribe("a")) as one,
    ):
        await publish_all(broadcaster, "a", ["1", "2"])
        await publish_all(broadcaster, "b", ["1"])
        await until(lambda: len(every.messages) == 3)
        own.proxy.drop()
        async with bare_producer(own.direct) as producer:
            for topic in ("a", "b", "c"):
                await producer.send_and_wait(topic, b"meanwhile")
        await until(lambda: broadcaster.health().reconnects)
        await back(broadcaster)
        await until(lambda: len(every.messages) == 6)
        await one.until("meanwhile")
    assert one.messages == ["1", "2", "meanwhile"]
    assert sorted(every.messages) == ["1", "1", "2", "meanwhile", "meanwhile", "meanwhile"]
    assert every.gaps == one.gaps == []


async def test_what_was_trimmed_in_an_outage_is_told(own: KafkaBroker) -> None:
    async with (
        own.broadcaster(publish_timeout=30) as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
        reading(broadcaster.subscribe("other")) as other,
    ):
        await publish_all(broadcaster, "room", ["0", "1", "2"])
        await reader.until("2")
        own.server.advertised, port = 1, own.server.advertised  # nobody gets back in meanwhile
        await own.kill()
        await lost(broadcaster)
        await own.restart()
        async with bare_producer(own.direct) as producer:
            for number in range(3, 20):
                await producer.send_and_wait("room", str(number).encode())
        await delete_records(own.direct, "room", 10)
        own.server.advertised = port
        stopping = partial(own.server.stop, timeout=90)  # a killed one may forget that it trimmed
        await asyncio.to_thread(stopping)
        await own.restart()
        await reader.until("19")
    assert [item if isinstance(item, Gap) else item.message for item in reader.items] == [
        *("0", "1", "2"),
        Gap("room", "expired"),
        *(str(number) for number in range(10, 20)),
    ]
    assert other.items == []


async def test_a_topic_that_is_made_anew_is_told(own: KafkaBroker) -> None:
    """A shorter one: its messages are heard, from the first one on."""
    async with (
        own.broadcaster(publish_timeout=30) as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        await publish_all(broadcaster, "room", [str(number) for number in range(50)])
        await reader.until("49")
        async with admin_of(own.direct) as admin:
            await admin.delete_topics(["room"])
        await until(lambda: reader.gaps)
        await back(broadcaster)
        async with bare_producer(own.direct) as producer:
            for message in (b"a", b"b", b"end"):
                await producer.send_and_wait("room", message)
        await reader.until("end")
    assert reader.gaps == [Gap("room", "reset")]
    assert reader.messages[50:] == ["a", "b", "end"]


async def test_partitions_that_are_added_are_read(
    server: Kafka, broadcaster: Broadcaster, name: str
) -> None:
    await make_topic(server, name)
    async with reading(broadcaster.subscribe(name)) as reader:
        await broadcaster.publish(name, "before")
        await reader.until("before")
        await add_partitions(server, name, 4)
        async with bare_producer(server.port) as producer:
            await producer.client.force_metadata_update()
            await until(lambda: producer.client.cluster.partitions_for_topic(name) or True)
            while len(await producer.partitions_for(name)) < 4:
                await producer.client.force_metadata_update()
            for number in range(40):
                await producer.send_and_wait(name, str(number).encode(), partition=number % 4)
        await until(lambda: len(reader.messages) == 41)
    assert sorted(reader.messages[1:], key=int) == [str(number) for number in range(40)]
    assert reader.gaps == []
    for partition in range(4):
        own = [int(one) for one in reader.messages[1:] if int(one) % 4 == partition]
        assert all(earlier < later for earlier, later in pairwise(own))
