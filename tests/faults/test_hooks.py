"""Hooks on loss and return: told once, and whatever they do, nobody notices."""

from __future__ import annotations

import asyncio
import time

import pytest

from fastapi_broadcaster import Broadcaster, Health
from tests.brokers import MemoryBroker
from tests.conformance.tools import back, lost, reading, until


async def outage(broker: MemoryBroker, broadcaster: Broadcaster) -> None:
    await broker.kill()
    await lost(broadcaster)
    await broker.restart()
    await back(broadcaster)


async def test_each_is_called_once_per_loss_with_the_health() -> None:
    """Not for connecting, nor for attempts that fail, nor for disconnecting."""
    broker, told = MemoryBroker(), list[tuple[str, Health]]()

    async def on_reconnect(health: Health) -> None:
        await asyncio.sleep(0)
        told.append(("back", health))

    broadcaster = broker.broadcaster(
        on_disconnect=lambda health: told.append(("lost", health)), on_reconnect=on_reconnect
    )
    listen, attempts = broadcaster.backend.listen, list[Health]()

    def listen_again():
        attempts.append(broadcaster.health())
        return listen()

    broadcaster.backend.listen = listen_again
    async with broadcaster:
        for turn in range(1, 4):
            await broker.kill()
            tried = len(attempts)
            await until(lambda: len(attempts) >= tried + 3)  # noqa: B023
            await broker.restart()
            await until(lambda: len(told) == 2 * turn)  # noqa: B023
    assert [what for what, _ in told] == ["lost", "back"] * 3
    assert [health.state for _, health in told] == ["reconnecting", "connected"] * 3
    assert [health.reconnects for _, health in told] == [1, 1, 2, 2, 3, 3]
    assert all(health.last_error for _, health in told)


async def test_what_a_hook_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    broker = MemoryBroker()

    def on_disconnect(health: Health) -> None:
        raise ZeroDivisionError("a hook that fails at once")

    async def on_reconnect(health: Health) -> None:
        raise ZeroDivisionError("a hook that fails later")

    broadcaster = broker.broadcaster(on_disconnect=on_disconnect, on_reconnect=on_reconnect)
    async with broadcaster, reading(broadcaster.subscribe("room")) as reader:
        await outage(broker, broadcaster)
        await broadcaster.publish("room", "hello")
        await reader.until("hello")
        await until(lambda: "a hook that fails later" in caplog.text)
    assert "a hook that fails at once" in caplog.text


async def test_a_slow_hook_delays_nothing() -> None:
    """Neither the way back, nor messages, nor the other hook, nor the end."""
    broker, ended, told = MemoryBroker(), list[str](), list[Health]()

    async def on_disconnect(health: Health) -> None:
        try:
            await asyncio.sleep(3_600)
        finally:
            ended.append(health.state)

    broadcaster = broker.broadcaster(on_disconnect=on_disconnect, on_reconnect=told.append)
    begun = time.monotonic()
    async with broadcaster, reading(broadcaster.subscribe("room")) as reader:
        await outage(broker, broadcaster)
        await broadcaster.publish("room", "hello")
        await reader.until("hello")
        assert len(told) == 1
        assert ended == []
    assert time.monotonic() - begun < 20
    assert ended == ["reconnecting"]


async def test_a_hook_may_disconnect() -> None:
    broker, done = MemoryBroker(), asyncio.Event()

    async def on_disconnect(health: Health) -> None:
        await broadcaster.disconnect()
        done.set()

    broadcaster = broker.broadcaster(on_disconnect=on_disconnect)
    await broadcaster.connect()
    await broker.kill()
    async with asyncio.timeout(20):
        await done.wait()
    assert broadcaster.health().state == "disconnected"
