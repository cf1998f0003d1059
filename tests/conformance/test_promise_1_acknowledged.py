"""Promise 1: publish returns when the broker has accepted the message, or raises."""

from __future__ import annotations

import asyncio
import time

import pytest

from fastapi_broadcaster import BackendError, BackendUnavailableError, Broadcaster, Receipt
from tests.backends import BackendCase
from tests.brokers import Broker
from tests.conformance.tools import (
    Barrier,
    accepted,
    back,
    lost,
    reading,
    take,
    take_until,
    until,
)


async def test_receipt(case: BackendCase, broadcaster: Broadcaster, name: str) -> None:
    async with broadcaster.subscribe(name) as subscriber:
        receipt = await broadcaster.publish(name, "hello")
        event = await subscriber.get()
    assert (event.channel, event.message) == (name, "hello")
    assert receipt == Receipt(channel=name, id=event.id if case.receipts else None)
    assert (event.id is not None) == case.log


async def test_nobody_listens(broadcaster: Broadcaster, name: str) -> None:
    assert (await broadcaster.publish(name, "into the void")).channel == name


async def test_raises_within_its_timeout_when_the_broker_is_away(own_broker: Broker) -> None:
    async with (
        own_broker.broadcaster(publish_timeout=0.4) as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        await own_broker.kill()
        await lost(broadcaster)
        begun = time.monotonic()
        with pytest.raises(BackendUnavailableError, match=r"within 0\.4 s") as refusal:
            await broadcaster.publish("room", "never sent")
        assert 0.3 < time.monotonic() - begun < 20
        assert refusal.value.maybe_published is False
        await own_broker.restart()
        await back(broadcaster)
        await until(lambda: accepted(broadcaster, "room", "sent"))
        await reader.until("sent")
        assert reader.messages == ["sent"]


async def test_every_publish_around_a_kill_is_acknowledged_or_raises(own_broker: Broker) -> None:
    """Nobody hangs, whether the connection was idle or just about to answer."""
    async with own_broker.broadcaster(publish_timeout=0.4) as broadcaster:
        publishing = [
            asyncio.create_task(broadcaster.publish("room", str(number))) for number in range(50)
        ]
        await asyncio.sleep(0)
        await own_broker.kill()
        async with asyncio.timeout(20):
            outcomes = await asyncio.gather(*publishing, return_exceptions=True)
        assert all(isinstance(outcome, Receipt | BackendUnavailableError) for outcome in outcomes)


async def test_waits_for_the_broker_to_come_back(own_broker: Broker) -> None:
    async with (
        own_broker.broadcaster(publish_timeout=90) as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        await own_broker.kill()
        await lost(broadcaster)
        publishing = [
            asyncio.create_task(broadcaster.publish("room", message)) for message in ("a", "b")
        ]
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in publishing)
        await own_broker.restart()
        await asyncio.gather(*publishing)
        await reader.until("b")
        assert reader.messages == ["a", "b"]


async def test_waits_until_this_process_listens_again(own_broker: Broker) -> None:
    """What is acknowledged, this process's own subscribers hear."""
    broadcaster = own_broker.broadcaster(publish_timeout=90)
    barrier = Barrier(broadcaster, "subscribe")
    async with broadcaster, reading(broadcaster.subscribe("room")) as reader:
        barrier.close()
        await own_broker.drop_clients()
        await until(lambda: barrier.held)
        publishing = asyncio.create_task(broadcaster.publish("room", "hello"))
        await asyncio.sleep(0.1)
        assert not publishing.done()
        barrier.open()
        await publishing
        await reader.until("hello")


async def test_a_lost_reply_is_told_and_never_repeated(
    case: BackendCase, own_broker: Broker
) -> None:
    async with (
        own_broker.losing_reply(b"the lost one") as publisher,
        own_broker.broadcaster() as direct,
        (direct if case.shared else publisher).subscribe("room") as subscriber,
    ):
        await publisher.publish("room", "before")
        with pytest.raises(BackendUnavailableError) as refusal:
            await publisher.publish("room", "the lost one")
        assert refusal.value.maybe_published is True
        await publisher.publish("room", "after")
        assert await take_until(subscriber, "after") == ["before", "the lost one"]


async def test_a_cancelled_caller_withdraws_only_its_own(broker: Broker, name: str) -> None:
    broadcaster = broker.broadcaster()
    barrier = Barrier(broadcaster, "publish")
    async with broadcaster, broadcaster.subscribe(name) as subscriber:
        barrier.close()
        publishing = [asyncio.create_task(broadcaster.publish(name, message)) for message in "abcd"]
        await until(lambda: barrier.held)
        publishing[2].cancel()
        await asyncio.wait([publishing[2]])
        barrier.open()
        outcomes = await asyncio.gather(*publishing, return_exceptions=True)
        await broadcaster.publish(name, "end")
        assert await take_until(subscriber, "end") == ["a", "b", "d"]
    assert isinstance(outcomes.pop(2), asyncio.CancelledError)
    assert all(isinstance(outcome, Receipt) for outcome in outcomes)


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "in_a_batch"])
async def test_a_caller_cancelled_in_flight_harms_nobody(
    broker: Broker, name: str, alone: bool
) -> None:
    """Its own message may or may not arrive; the others' do, once."""
    broadcaster = broker.broadcaster()
    barrier = Barrier(broadcaster, "publish", after=True)
    async with broadcaster, broadcaster.subscribe(name) as subscriber:
        barrier.close()
        publishing = [asyncio.create_task(broadcaster.publish(name, message)) for message in "abcd"]
        await until(lambda: barrier.held)
        if not alone:
            barrier.open()
            await publishing[0]
            barrier.close()
            await until(lambda: barrier.calls == 2)
        victim = publishing[0 if alone else 2]
        victim.cancel()
        barrier.open()
        await asyncio.wait(publishing)
        await broadcaster.publish(name, "end")
        taken = await take_until(subscriber, "end")
    others = [task for task in publishing if task is not victim or not alone]
    assert [message for message in taken if message != "a" or not alone] == [
        "abcd"[publishing.index(task)] for task in others
    ]
    assert all(task.cancelled() or isinstance(task.result(), Receipt) for task in publishing)


async def test_a_refused_message_fails_only_its_own_caller(own_broker: Broker) -> None:
    await own_broker.refuse_all_but("ok.")
    broadcaster = own_broker.broadcaster()
    barrier = Barrier(broadcaster, "publish")
    async with broadcaster, broadcaster.subscribe(["ok.1", "ok.2"]) as subscriber:
        barrier.close()
        publishing = [
            asyncio.create_task(broadcaster.publish(channel, channel))
            for channel in ("ok.1", "ok.1", "bad.1", "ok.2")
        ]
        await until(lambda: barrier.held)
        barrier.open()
        outcomes = await asyncio.gather(*publishing, return_exceptions=True)
        assert sorted(await take(subscriber, 3)) == ["ok.1", "ok.1", "ok.2"]
    refusal = outcomes.pop(2)
    assert isinstance(refusal, BackendError)
    assert not isinstance(refusal, BackendUnavailableError)
    assert all(isinstance(outcome, Receipt) for outcome in outcomes)


async def test_disconnecting_leaves_no_caller_waiting(own_broker: Broker) -> None:
    broadcaster = own_broker.broadcaster(publish_timeout=60)
    async with broadcaster:
        await own_broker.kill()
        await lost(broadcaster)
        publishing = [
            asyncio.create_task(broadcaster.publish("room", message)) for message in "abc"
        ]
        await asyncio.sleep(0.05)
    async with asyncio.timeout(20):
        outcomes = await asyncio.gather(*publishing, return_exceptions=True)
    assert all(isinstance(outcome, BackendUnavailableError) for outcome in outcomes)


async def test_disconnecting_with_a_message_in_flight(own_broker: Broker) -> None:
    """A broker that does not answer does not keep a broadcaster from going."""
    broadcaster = own_broker.broadcaster(publish_timeout=60)
    async with broadcaster:
        await own_broker.pause()
        publishing = [
            asyncio.create_task(broadcaster.publish("room", message)) for message in "abc"
        ]
        await asyncio.sleep(0.05)
    async with asyncio.timeout(20):
        outcomes = await asyncio.gather(*publishing, return_exceptions=True)
    await own_broker.resume()
    assert all(isinstance(one, Receipt | BackendUnavailableError) for one in outcomes)
