"""What `kafka://` publishes: plain records, confirmed, each message on its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from fastapi_broadcaster import (
    Broadcaster,
    ChannelNameError,
    ChannelTemplate,
    MessageTooLargeError,
    Receipt,
)
from servers import Kafka
from tests.conformance.tools import take, take_until
from tests.kafka.bare import bare_producer, make_topic, records_of
from tests.kafka.broker import admin_of


async def test_a_bare_consumer_reads_the_plain_message(
    server: Kafka, broadcaster: Broadcaster, name: str
) -> None:
    ids = [str((await broadcaster.publish(name, data)).id) for data in ("hello", b"\0\xff", "")]
    records = await records_of(server.port, name)
    assert [record.value for record in records] == [b"hello", b"\0\xff", b""]
    places = [f"{record.partition}:{record.offset}" for record in records]
    assert places == [id.partition(".")[2] for id in ids]
    assert all(record.headers == () for record in records)


async def test_a_bare_producer_is_heard(server: Kafka, broadcaster: Broadcaster, name: str) -> None:
    async with broadcaster.subscribe(name) as subscriber, bare_producer(server.port) as producer:
        await producer.send_and_wait(name, b"plain")
        await producer.send_and_wait(name, b"keyed", key=b"any", headers=[("channel", b"other")])
        await producer.send_and_wait(name, None, key=b"deleted")
        assert await take(subscriber, 3) == ["plain", "keyed", ""]


async def test_a_topic_has_one_partition_and_the_time_of_the_broker(
    server: Kafka, broadcaster: Broadcaster, name: str
) -> None:
    await broadcaster.publish(name, "hello")
    async with admin_of(server.port) as admin:
        [topic] = await admin.describe_topics([name])
        assert len(topic["partitions"]) == 1
        asked = [ConfigResource(ConfigResourceType.TOPIC, name)]
        response: Any = (await admin.describe_configs(asked))[0]
        resources = response.resources  # type: ignore[attr-defined]
        config = {entry[0]: entry[1] for entry in resources[0][4]}
    assert config["message.timestamp.type"] == "LogAppendTime"
    assert config["max.message.bytes"] == "1114112"


async def test_messages_of_one_mebibyte(broadcaster: Broadcaster, name: str) -> None:
    async with broadcaster.subscribe(name) as subscriber:
        await broadcaster.publish(name, "x" * 1_048_576)
        [message] = await take(subscriber, 1)
    assert message == "x" * 1_048_576


async def test_one_that_is_too_large_fails_only_its_own_caller(
    server: Kafka, broadcaster: Broadcaster, name: str
) -> None:
    """The driver would refuse everything behind it, for ever."""
    await make_topic(server, name, config={"max.message.bytes": "2000"})
    async with broadcaster.subscribe(name) as subscriber:
        for turn in range(3):
            messages = [f"{turn} a", f"{turn} b", "x" * 20_000, f"{turn} c", f"{turn} d"]
            outcomes = await asyncio.gather(
                *(broadcaster.publish(name, message) for message in messages),
                return_exceptions=True,
            )
            refusal = outcomes.pop(2)
            assert isinstance(refusal, MessageTooLargeError)
            assert "20,000 bytes" in str(refusal)
            assert name in str(refusal)
            assert all(isinstance(outcome, Receipt) for outcome in outcomes)
            assert await take(subscriber, 4) == [f"{turn} {letter}" for letter in "abcd"]
    assert len(await records_of(server.port, name)) == 12


@pytest.mark.parametrize("name", ["a:b", "a b", "ä", "a/b", ".", "..", "x" * 250])
async def test_names_that_cannot_be_topics(broadcaster: Broadcaster, name: str) -> None:
    with pytest.raises(ChannelNameError, match=r"\?topic="):
        await broadcaster.publish(name, "hello")
    with pytest.raises(ChannelNameError, match=r"\?topic="):
        broadcaster.subscribe(name)


async def test_names_that_can(broadcaster: Broadcaster, name: str) -> None:
    for one in (f"{name}.A-z_0", f"{name}." + "x" * (248 - len(name))):
        async with broadcaster.subscribe(one) as subscriber:
            await broadcaster.publish(one, "hello")
            assert await take(subscriber, 1) == ["hello"]


def test_the_fixed_part_of_a_template_is_checked(server: Kafka) -> None:
    broadcaster = Broadcaster(server.url)
    broadcaster.check_name(ChannelTemplate("rooms.{room}", str).fixed)
    with pytest.raises(ChannelNameError, match=r"\?topic="):
        broadcaster.check_name(ChannelTemplate("rooms:{room}", str).fixed)


async def test_twenty_publishers_each_in_order(broadcaster: Broadcaster, name: str) -> None:
    async def publish(number: int) -> None:
        for count in range(50):
            await broadcaster.publish(name, f"{number} {count}")

    async with broadcaster.subscribe(name) as subscriber:
        await asyncio.gather(*(publish(number) for number in range(20)))
        await broadcaster.publish(name, "end")
        found = await take_until(subscriber, "end")
    assert len(found) == 1_000
    for number in range(20):
        own = [message for message in found if message.split()[0] == str(number)]
        assert own == [f"{number} {count}" for count in range(50)]
