"""Promise 3: in order, once, or told."""

from __future__ import annotations

import asyncio

import pytest

from fastapi_broadcaster import Broadcaster, Event, Gap, Subscriber
from fastapi_broadcaster._buffer import Overflow
from tests.backends import BackendCase
from tests.brokers import Broker
from tests.conformance.tools import (
    Reader,
    publish_all,
    published,
    reading,
    take_items,
    take_until,
    until,
)


async def test_order_per_task_with_8_publishers(
    case: BackendCase, broadcaster: Broadcaster, name: str
) -> None:
    sent = {one: [f"{one} {turn}" for turn in range(100)] for one in "abcdefgh"}
    async with (
        reading(broadcaster.subscribe(name)) as reader,
        reading(broadcaster.subscribe(name)) as other,
    ):
        await asyncio.gather(*(publish_all(broadcaster, name, sent[one]) for one in sent))
        await broadcaster.publish(name, "end")
        await reader.until("end")
        await other.until("end")
    assert reader.gaps == other.gaps == []
    assert reader.messages == other.messages
    assert len(reader.messages) == 801
    for one, messages in sent.items():
        assert [message for message in reader.messages if message.startswith(f"{one} ")] == messages


def _bare(item: Event | Gap) -> str | Gap:
    return item if isinstance(item, Gap) else item.message


async def _overflown(
    broadcaster: Broadcaster, name: str, overflow: Overflow
) -> tuple[Subscriber, list[str | Gap]]:
    """What a reader gets that slept through 100 messages with a buffer of 10."""
    messages = [str(number) for number in range(100)]
    async with (
        broadcaster.subscribe(name, buffer_size=10, overflow=overflow) as slow,
        reading(broadcaster.subscribe(name)) as quick,
    ):
        await publish_all(broadcaster, name, messages)
        await quick.until("99")
        reader = Reader(slow)
        await until(lambda: len(reader.items) >= 2)
        await broadcaster.publish(name, "end")
        await reader.until("end")
        reader.task.cancel()
        await asyncio.wait([reader.task])
    found = [_bare(item) for item in reader.items]
    assert quick.messages[:100] == messages
    return slow, found


async def test_slow_drop_oldest(broadcaster: Broadcaster, name: str) -> None:
    slow, found = await _overflown(broadcaster, name, "drop_oldest")
    assert found == [Gap(name, "slow", 90), *(str(number) for number in range(90, 100)), "end"]
    assert slow.gaps == 1


async def test_slow_drop_newest(broadcaster: Broadcaster, name: str) -> None:
    _, found = await _overflown(broadcaster, name, "drop_newest")
    assert found == [*(str(number) for number in range(10)), Gap(name, "slow", 90), "end"]


async def test_slow_latest(broadcaster: Broadcaster, name: str) -> None:
    _, found = await _overflown(broadcaster, name, "latest")
    assert found == [Gap(name, "slow", 99), "99", "end"]


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "latest"])
async def test_slow_counts_are_exact_over_several_channels(
    broadcaster: Broadcaster, name: str, overflow: Overflow
) -> None:
    """Whatever was dropped: received and missed make up what was published, per channel."""
    channels = [f"{name}.{letter}" for letter in "abc"]
    async with (
        broadcaster.subscribe(channels, buffer_size=7, overflow=overflow) as slow,
        reading(broadcaster.subscribe(channels)) as quick,
    ):
        counts = dict.fromkeys(channels, 0)
        for turn in range(5):
            for number in range(20):
                await broadcaster.publish(channels[number % 3], f"{turn} {number}")
            await quick.until(f"{turn} 19")
            for item in await take_items(slow, turn):
                counts[item.channel] += (item.missed or 0) if isinstance(item, Gap) else 1
        reader = Reader(slow)
        await until(lambda: len(reader.items) >= 2)
        for channel in channels:
            await broadcaster.publish(channel, "end")
        await until(lambda: reader.messages.count("end") == 3)
        reader.task.cancel()
        await asyncio.wait([reader.task])
    for item in reader.items:
        counts[item.channel] += (item.missed or 0) if isinstance(item, Gap) else 1
    assert counts == {channels[0]: 36, channels[1]: 36, channels[2]: 31}
    assert slow.gaps


async def test_gap_stands_where_messages_were_dropped(broadcaster: Broadcaster, name: str) -> None:
    """Every message is received or counted by a gap that stands at its place."""
    async with (
        broadcaster.subscribe(name, buffer_size=5, overflow="drop_oldest") as slow,
        reading(broadcaster.subscribe(name)) as quick,
    ):
        found: list[str | Gap] = []
        for turn in range(8):
            for number in range(turn * 9, turn * 9 + 9):
                await broadcaster.publish(name, str(number))
            await quick.until(str(turn * 9 + 8))
            found += [_bare(item) for item in await take_items(slow, 3)]
        await broadcaster.publish(name, "end")
        await quick.until("end")
        found += await take_until(slow, "end")
    position = 0
    for item in found:
        if isinstance(item, Gap):
            assert item.missed
            position += item.missed
        else:
            assert item == str(position)
            position += 1
    assert position == 72


async def test_what_was_trimmed_is_told(
    refused, case: BackendCase, own_broker: Broker, name: str
) -> None:
    async with own_broker.broadcaster(log_size=100) as broadcaster:
        if refused.log(broadcaster, name, history="all"):
            return
        first = await published(broadcaster, name, "0")
        await publish_all(broadcaster, name, [*(str(number) for number in range(1, 1_000)), "end"])
        async with broadcaster.subscribe(name, after=first) as subscriber:
            items = await take_until(subscriber, "end")
    gaps = [item for item in items if isinstance(item, Gap)]
    found = items[len(gaps) :]
    missed = int(found[0]) - 1
    assert found == [str(number) for number in range(missed + 1, 1_000)]
    assert missed > 0
    if case.exact_missed:
        assert gaps == [Gap(name, "expired", missed)]
    else:  # a server that trims by itself may still do so while it is read
        assert {(gap.channel, gap.reason) for gap in gaps} == {(name, "expired")}
        assert {gap.missed for gap in gaps} <= {missed, None}


async def test_overlapping_subscriptions_deliver_once(
    refused, case: BackendCase, broadcaster: Broadcaster, name: str
) -> None:
    """The broker may send a message once per subscription; each subscriber has it once."""
    if refused.pattern(broadcaster, f"{name}.*"):
        return
    async with (
        reading(broadcaster.subscribe(pattern=f"{name}.*")) as wide,
        reading(broadcaster.subscribe(pattern=f"{name}.a*")) as narrow,
        reading(broadcaster.subscribe(pattern=f"{name}.?b")) as shape,
        reading(broadcaster.subscribe(f"{name}.ab")) as exact,
    ):
        await publish_all(broadcaster, f"{name}.ab", ["1", "2", "3"])
        await broadcaster.publish(f"{name}.xy", "4")
        await publish_all(broadcaster, f"{name}.ab", ["end"])
        for reader in (wide, narrow, shape, exact):
            await reader.until("end")
        await wide.until("4")
    heard = wide.messages if case.order_across else sorted(wide.messages)
    assert heard == ["1", "2", "3", "4", "end"]
    assert narrow.messages == shape.messages == exact.messages == ["1", "2", "3", "end"]
