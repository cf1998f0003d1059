"""Promise 6: the broker may die. The listener reconnects for ever, and says how it is."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import pytest

from fastapi_broadcaster import BackendUnavailableError, Broadcaster
from tests.backends import BackendCase
from tests.brokers import Broker
from tests.conformance.tools import accepted, back, lost, publish_all, reading, take, until


async def test_health_through_an_outage(
    own_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broadcaster = own_broker.broadcaster()
    assert broadcaster.health().state == "disconnected"
    async with broadcaster, broadcaster.subscribe("room"):
        first = broadcaster.health()
        assert (first.state, first.last_error, first.reconnects) == ("connected", None, 0)
        assert first.subscribers == 1
        assert first.backend == str(broadcaster.backend)
        await own_broker.kill()
        await lost(broadcaster)
        away = broadcaster.health()
        assert away.last_error
        assert first.since < away.since <= datetime.now(UTC)
        await own_broker.restart()
        await back(broadcaster)
        again = broadcaster.health()
        assert again.reconnects == 1
        assert again.since > away.since
        await broadcaster.publish("room", "hello")
        broadcaster.drain()
        assert broadcaster.health().state == "draining"
    assert broadcaster.health().state == "disconnected"
    line = next(line for line in caplog.messages if "connection lost (" in line)
    assert line.startswith(f"{broadcaster.backend}: connection lost (")
    assert f"({broadcaster.backend}" not in line  # the address is told once


@pytest.mark.parametrize("fault", ["kill", "drop_clients", "pause"])
async def test_the_listener_reconnects(case: BackendCase, own_broker: Broker, fault: str) -> None:
    """Again and again; everything that was wanted is live again each time."""
    names = [f"room.{number}" for number in range(20)]
    async with (
        own_broker.broadcaster(publish_timeout=60) as broadcaster,
        reading(broadcaster.subscribe(names)) as reader,
    ):
        for turn in range(1 if fault == "pause" else 3):
            before = broadcaster.health().reconnects
            await getattr(own_broker, fault)()
            await until(lambda: broadcaster.health().reconnects > before)  # noqa: B023
            if fault == "kill":
                await own_broker.restart()
            elif fault == "pause":
                await own_broker.resume()
            await back(broadcaster)
            for name in names:
                await broadcaster.publish(name, f"{turn} {name}")
            wanted = [f"{turn} {name}" for name in names]
            await until(lambda: set(wanted) <= set(reader.messages))  # noqa: B023
            heard = [message for message in reader.messages if message.startswith(f"{turn} ")]
            assert (heard if case.order_across else sorted(heard, key=wanted.index)) == wanted


async def test_a_frozen_broker_is_noticed(case: BackendCase, own_broker: Broker) -> None:
    """Though every connection stays open; publishing fails meanwhile."""
    async with (
        own_broker.broadcaster(publish_timeout=1.0) as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        begun = time.monotonic()
        await own_broker.pause()
        await lost(broadcaster)
        assert time.monotonic() - begun < 20
        with pytest.raises(BackendUnavailableError):
            await broadcaster.publish("room", "into the ice")
        await own_broker.resume()
        await back(broadcaster)
        await until(lambda: accepted(broadcaster, "room", "end"))
        await reader.until("end")
        told = broadcaster.health().reconnects if case.loses_on_outage else 0
    assert len(reader.gaps) == told


async def test_what_is_wanted_may_change_in_an_outage(
    case: BackendCase, own_broker: Broker
) -> None:
    """Who left is not subscribed again, who came is, and nobody is told of another's gap."""
    broadcaster = own_broker.broadcaster(linger=0.0, subscribe_timeout=90, publish_timeout=60)
    async with broadcaster, reading(broadcaster.subscribe("stays")) as reader:
        leaving = broadcaster.subscribe("leaves")
        await leaving.__aenter__()
        await own_broker.kill()
        await lost(broadcaster)
        await leaving.__aexit__(None, None, None)
        coming = broadcaster.subscribe("comes")
        entering = asyncio.create_task(coming.__aenter__())
        await asyncio.sleep(0.05)
        await own_broker.restart()
        newcomer = await entering

        async def both_are_back() -> bool:
            return await own_broker.subscriptions() == {"stays", "comes"}

        await until(both_are_back)  # on a cluster each node for itself
        await publish_all(broadcaster, "stays", ["end"])
        await publish_all(broadcaster, "comes", ["hello"])
        await reader.until("end")
        assert await take(newcomer, 1) == ["hello"]
        await coming.__aexit__(None, None, None)
    assert newcomer.gaps == 0
    assert len(reader.gaps) == (1 if case.loses_on_outage else 0)


async def test_an_unexpected_error_is_loud_and_survived(
    own_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing dies silently: not even of a bug in a backend."""
    broadcaster = own_broker.broadcaster()
    listen, broken = broadcaster.backend.listen, asyncio.Event()

    async def listen_badly():
        async for batch in listen():
            yield batch
            if batch and not broken.is_set():
                broken.set()
                raise ZeroDivisionError("a bug")

    broadcaster.backend.listen = listen_badly
    async with broadcaster, reading(broadcaster.subscribe("room")) as reader:
        await broadcaster.publish("room", "hello")
        await reader.until("hello")
        await until(broken.is_set)
        await until(lambda: broadcaster.health().reconnects)
        await back(broadcaster)
        await broadcaster.publish("room", "end")
        await reader.until("end")
    assert "a bug" in caplog.text


async def test_connecting_to_nobody_raises(own_broker: Broker) -> None:
    await own_broker.kill()
    broadcaster = own_broker.broadcaster(connect_timeout=2.0)
    begun = time.monotonic()
    with pytest.raises(BackendUnavailableError):
        await broadcaster.connect()
    assert time.monotonic() - begun < 10
    assert broadcaster.health().state == "disconnected"
    await own_broker.restart()
    await until(lambda: connected(broadcaster))
    async with reading(broadcaster.subscribe("room")) as reader:
        await broadcaster.publish("room", "hello")
        await reader.until("hello")
    await broadcaster.disconnect()


async def connected(broadcaster: Broadcaster) -> bool:
    """Whether it has connected, within its two seconds."""
    try:
        await broadcaster.connect()
    except BackendUnavailableError:
        return False
    return True


async def test_connecting_again_after_disconnecting(own_broker: Broker) -> None:
    broadcaster = own_broker.broadcaster()
    for turn in range(3):
        async with broadcaster, reading(broadcaster.subscribe("room")) as reader:
            await broadcaster.publish("room", f"hello {turn}")
            await reader.until(f"hello {turn}")
        assert reader.gaps == []
