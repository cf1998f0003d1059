"""Promise 3: in order, once, or told."""

from __future__ import annotations

import asyncio

import pytest

from fastapi_broadcaster import BackendUnavailableError, Broadcaster, Event, Gap, Subscriber
from fastapi_broadcaster._buffer import Overflow
from tests.backends import BackendCase, rows
from tests.brokers import Broker
from tests.conformance.tools import (
    Reader,
    back,
    lost,
    publish_all,
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


class Publishing:
    """Publishes numbers without end, and keeps those that were acknowledged."""

    def __init__(self, broadcaster: Broadcaster) -> None:
        self.acknowledged: list[int] = []
        self.refused = 0
        self._broadcaster = broadcaster
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        number = 0
        while True:
            try:
                await self._broadcaster.publish("room", str(number))
                self.acknowledged.append(number)
            except BackendUnavailableError:
                self.refused += 1
            number += 1
            await asyncio.sleep(0.001)

    async def more(self, count: int = 50) -> None:
        target = len(self.acknowledged) + count
        await until(lambda: self._task.done() or len(self.acknowledged) >= target)
        assert not self._task.done()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


def assert_only_lost_in_gaps(reader: Reader, acknowledged: list[int]) -> None:
    """Every acknowledged message was received, in order, or belongs where a gap stands."""
    received = [int(message) for message in reader.messages if message != "end"]
    assert received == sorted(set(received))
    holes: list[tuple[float, float]] = []
    before = -1.0
    for at, item in enumerate(reader.items):
        if isinstance(item, Gap):
            behind = [one for one in reader.items[at:] if isinstance(one, Event)]
            holes.append(
                (before, float("inf" if behind[0].message == "end" else behind[0].message))
            )
        elif item.message != "end":
            before = float(item.message)
    missing = set(acknowledged) - set(received)
    assert all(any(low < one < high for low, high in holes) for one in missing)


@pytest.mark.parametrize("publisher", ["own", "other"])
@pytest.mark.parametrize("fault", ["kill", "drop_clients"])
async def test_an_outage_while_publishing(
    case: BackendCase, own_broker: Broker, fault: str, publisher: str
) -> None:
    """Exactly one gap without a log, none with one; no acknowledged message lost outside it."""
    async with (
        own_broker.broadcaster(publish_timeout=20) as broadcaster,
        own_broker.broadcaster(publish_timeout=20) as other,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        publishing = Publishing(other if publisher == "other" and case.shared else broadcaster)
        await publishing.more()
        if fault == "kill":
            await own_broker.kill()
            await lost(broadcaster)
            await own_broker.restart()
        else:
            await own_broker.drop_clients()
        await until(lambda: broadcaster.health().reconnects == 1)
        await back(broadcaster)
        await publishing.more()
        await publishing.stop()
        await broadcaster.publish("room", "end")
        await reader.until("end")
    wanted = [Gap("room", "reconnected")] if case.loses_on_outage else []
    assert reader.gaps == wanted
    assert_only_lost_in_gaps(reader, publishing.acknowledged)
    acknowledged = set(publishing.acknowledged)  # the last publish was cancelled, maybe too late
    heard = [int(message) for message in reader.messages[:-1] if int(message) in acknowledged]
    assert heard[-40:] == publishing.acknowledged[-40:]
    if case.log:
        received = {int(message) for message in reader.messages[:-1]}
        assert received >= set(publishing.acknowledged)


async def test_each_outage_is_told_to_each_subscriber_once(
    case: BackendCase, own_broker: Broker
) -> None:
    async with (
        own_broker.broadcaster() as broadcaster,
        reading(broadcaster.subscribe("a")) as a,
        reading(broadcaster.subscribe(["a", "b"])) as both,
    ):
        for turn in range(3):
            await own_broker.drop_clients()
            await until(lambda: broadcaster.health().reconnects == turn + 1)  # noqa: B023
            await back(broadcaster)
        for name in "ab":
            await broadcaster.publish(name, "end")
        await a.until("end")
        await until(lambda: both.messages == ["end", "end"])
    told = 3 if case.loses_on_outage else 0
    assert a.gaps == [Gap("a", "reconnected")] * told
    assert sorted(gap.channel for gap in both.gaps) == ["a"] * told + ["b"] * told


async def test_a_lost_log_is_told(case: BackendCase, own_broker: Broker) -> None:
    """With a log: `reset`; without one there is nothing to come back to: `reconnected`."""
    async with own_broker.broadcaster() as broadcaster:
        before = (await broadcaster.publish("room", "before")).id or "~live"
    await own_broker.wipe()
    async with (
        own_broker.broadcaster() as broadcaster,
        broadcaster.subscribe("room", after=before) as subscriber,
    ):
        await broadcaster.publish("room", "after")
        reason = "reset" if case.log else "reconnected"
        assert await take_until(subscriber, "after") == [Gap("room", reason)]


@rows(lambda case: case.log and case.shared)
async def test_a_log_lost_under_a_live_subscriber(own_broker: Broker) -> None:
    async with (
        own_broker.broadcaster(publish_timeout=20) as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        await publish_all(broadcaster, "room", [str(number) for number in range(50)])
        await reader.until("49")
        await own_broker.kill()
        await lost(broadcaster)
        await own_broker.wipe()
        await own_broker.restart()
        await publish_all(broadcaster, "room", ["a", "b", "end"])
        await reader.until("end")
    assert [gap.reason for gap in reader.gaps] in (["reset"], ["expired"])
    assert reader.messages[50:] == ["a", "b", "end"]


async def test_what_was_trimmed_is_told(
    refused, case: BackendCase, own_broker: Broker, name: str
) -> None:
    async with own_broker.broadcaster(log_size=100) as broadcaster:
        if refused.log(broadcaster, name, history="all"):
            return
        first = (await broadcaster.publish(name, "0")).id
        await publish_all(broadcaster, name, [*(str(number) for number in range(1, 1_000)), "end"])
        async with broadcaster.subscribe(name, after=first) as subscriber:
            [gap, *found] = await take_until(subscriber, "end")
    missed = int(found[0]) - 1
    assert found == [str(number) for number in range(missed + 1, 1_000)]
    assert missed > 0
    assert gap == Gap(name, "expired", missed if case.exact_missed else gap.missed)
    assert gap.missed in (missed, None)


async def test_overlapping_subscriptions_deliver_once(
    refused, broadcaster: Broadcaster, name: str
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
    assert wide.messages == ["1", "2", "3", "4", "end"]
    assert narrow.messages == shape.messages == exact.messages == ["1", "2", "3", "end"]
