"""Promise 3 in an outage: what may be missing is told, at its place, and only there."""

from __future__ import annotations

import asyncio

import pytest

from fastapi_broadcaster import BackendUnavailableError, Broadcaster, Event, Gap
from tests.backends import BackendCase, rows
from tests.brokers import Broker
from tests.conformance.tools import (
    Reader,
    back,
    lost,
    publish_all,
    published,
    reading,
    take_until,
    until,
)


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
    """Without a log one gap per loss, with one none; no acknowledged message lost outside them."""
    async with (
        own_broker.broadcaster(publish_timeout=60) as broadcaster,
        own_broker.broadcaster(publish_timeout=60) as other,
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
        await until(lambda: broadcaster.health().reconnects)
        await back(broadcaster)
        await publishing.more()
        await publishing.stop()
        await broadcaster.publish("room", "end")
        await reader.until("end")
        told = broadcaster.health().reconnects if case.loses_on_outage else 0
    assert reader.gaps == [Gap("room", "reconnected")] * told
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
        own_broker.broadcaster(publish_timeout=60) as broadcaster,
        reading(broadcaster.subscribe("a")) as a,
        reading(broadcaster.subscribe(["a", "b"])) as both,
    ):
        for _ in range(3):
            before = broadcaster.health().reconnects
            await own_broker.drop_clients()
            await until(lambda: broadcaster.health().reconnects > before)  # noqa: B023
            await back(broadcaster)
        for name in "ab":
            await broadcaster.publish(name, "end")
        await a.until("end")
        await until(lambda: both.messages == ["end", "end"])
        told = broadcaster.health().reconnects if case.loses_on_outage else 0
    assert a.gaps == [Gap("a", "reconnected")] * told
    assert sorted(gap.channel for gap in both.gaps) == ["a"] * told + ["b"] * told


async def test_a_lost_log_is_told(case: BackendCase, own_broker: Broker) -> None:
    """With a log: `reset`; without one there is nothing to come back to: `reconnected`."""
    async with own_broker.broadcaster() as broadcaster:
        before = await published(broadcaster, "room", "before") or "~live"
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
        own_broker.broadcaster(publish_timeout=60) as broadcaster,
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
