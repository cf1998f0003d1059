"""Promise 7: shutdown ends streams."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from fastapi_broadcaster import Broadcaster, Unsubscribed
from tests.brokers import Broker
from tests.conformance.tools import PATIENCE, Reader, lost, reading, until
from tests.conftest import Refusal


async def test_drain_ends_every_stream_at_once(broadcaster: Broadcaster, name: str) -> None:
    async with broadcaster.subscribe(name) as idle, reading(broadcaster.subscribe(name)) as reader:
        waiting = asyncio.create_task(idle.get())
        await asyncio.sleep(0)
        gone = asyncio.ensure_future(broadcaster.drain())
        await reader.ended()
        with pytest.raises(Unsubscribed):
            await asyncio.wait_for(waiting, PATIENCE)
        with pytest.raises(Unsubscribed):
            await asyncio.wait_for(idle.get(), PATIENCE)
        assert not gone.done()
    async with asyncio.timeout(PATIENCE):
        await gone


async def test_drain_is_awaited_until_all_have_gone(broadcaster: Broadcaster, name: str) -> None:
    ended: list[int] = []

    async def listen(number: int) -> None:
        async with broadcaster.subscribe(name) as subscriber:
            live.release()
            async for _ in subscriber:
                pass
            await asyncio.sleep(0.01 * number)
            ended.append(number)

    live = asyncio.Semaphore(0)
    listening = [asyncio.create_task(listen(number)) for number in range(10)]
    for _ in listening:
        await live.acquire()
    async with asyncio.timeout(PATIENCE):
        await broadcaster.drain()
    assert sorted(ended) == list(range(10))
    await asyncio.gather(*listening)


async def test_what_waits_is_not_delivered_after_drain(broadcaster: Broadcaster, name: str) -> None:
    """At once means at once, also for who is behind."""
    async with (
        broadcaster.subscribe(name, buffer_size=2) as slow,
        reading(broadcaster.subscribe(name)) as quick,
    ):
        for number in range(50):
            await broadcaster.publish(name, str(number))
        await quick.until("49")
        broadcaster.drain()
        assert [event async for event in slow] == []


async def test_drain_in_the_middle_of_history(
    refused: Refusal, broadcaster: Broadcaster, name: str
) -> None:
    if refused.log(broadcaster, name, history="all"):
        return
    for number in range(100):
        await broadcaster.publish(name, str(number))
    async with broadcaster.subscribe(name, history="all", buffer_size=2) as subscriber:
        for _ in range(7):
            await subscriber.get()
        broadcaster.drain()
        assert len([event async for event in subscriber]) <= 2


async def test_subscribe_after_drain_ends_at_once(broadcaster: Broadcaster, name: str) -> None:
    await broadcaster.drain()
    async with asyncio.timeout(PATIENCE), broadcaster.subscribe(name) as subscriber:
        assert [event async for event in subscriber] == []
        with pytest.raises(Unsubscribed):
            await subscriber.get()
    assert (await broadcaster.publish(name, "still accepted")).channel == name


async def test_a_subscribe_that_waits_in_an_outage_ends_on_drain(own_broker: Broker) -> None:
    async with own_broker.broadcaster(subscribe_timeout=60) as broadcaster:
        await own_broker.kill()
        await lost(broadcaster)

        async def listen() -> list[object]:
            async with broadcaster.subscribe("room") as subscriber:
                return [event async for event in subscriber]

        waiting = [asyncio.create_task(listen()) for _ in range(3)]
        await asyncio.sleep(0.05)
        gone = broadcaster.drain()
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.gather(*waiting) == [[], [], []]
            await gone


async def test_drain_in_an_outage_ends_streams(own_broker: Broker) -> None:
    async with (
        own_broker.broadcaster() as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        await own_broker.kill()
        await lost(broadcaster)
        broadcaster.drain()
        async with asyncio.timeout(PATIENCE):
            await reader.ended()


async def test_disconnect_in_an_outage_does_not_hang(own_broker: Broker) -> None:
    broadcaster = own_broker.broadcaster()
    await broadcaster.connect()
    async with broadcaster.subscribe("room") as subscriber:
        await own_broker.pause()
        async with asyncio.timeout(PATIENCE):
            await broadcaster.disconnect()
        with pytest.raises(Unsubscribed):
            await subscriber.get()
    await own_broker.resume()


@pytest.fixture
def called() -> Iterator[list[int]]:
    """Handlers of ours for both signals, which write down that they were called."""
    calls: list[int] = []

    def handler(number: int, frame: object) -> None:
        calls.append(number)

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, handler) for number in numbers]
    yield calls
    for number, previous in zip(numbers, before, strict=True):
        assert signal.getsignal(number) is handler
        signal.signal(number, previous)


def _app() -> SimpleNamespace:
    return SimpleNamespace(state=SimpleNamespace(), routes=[])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_streams_and_goes_on(
    broker: Broker, name: str, called: list[int], number: signal.Signals
) -> None:
    """The handler of before is called, once, however many broadcasters there are."""
    first, second = broker.broadcaster(), broker.broadcaster()
    async with (
        first.lifespan(_app()),
        second.lifespan(_app()),
        reading(first.subscribe(name)) as one,
        reading(second.subscribe(name)) as two,
    ):
        os.kill(os.getpid(), number)
        await one.ended()
        await two.ended()
        assert called == [number]


async def test_handlers_are_restored_whatever_leaves_first(
    broker: Broker, called: list[int]
) -> None:
    first, second = broker.broadcaster().lifespan(_app()), broker.broadcaster().lifespan(_app())
    ours = signal.getsignal(signal.SIGTERM)
    await first.__aenter__()
    await second.__aenter__()
    assert signal.getsignal(signal.SIGTERM) is not ours
    await first.__aexit__(None, None, None)
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: called)
    await second.__aexit__(None, None, None)
    assert signal.getsignal(signal.SIGTERM) is ours
    assert called == [signal.SIGTERM]


async def test_signals_may_be_left_alone(broker: Broker, called: list[int]) -> None:
    ours = signal.getsignal(signal.SIGTERM)
    async with broker.broadcaster(handle_signals=False).lifespan(_app()):
        assert signal.getsignal(signal.SIGTERM) is ours


def test_nothing_off_the_main_thread(own_broker: Broker, called: list[int]) -> None:
    seen: list[object] = []

    async def serve() -> None:
        broadcaster = own_broker.broadcaster()
        async with broadcaster.lifespan(_app()), broadcaster.subscribe("room") as subscriber:
            seen.append(signal.getsignal(signal.SIGTERM))
            reader = Reader(subscriber)
            broadcaster.drain()
            await reader.ended()

    ours = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert seen == [ours]


@pytest.mark.parametrize("pauses", range(6))
async def test_disconnect_at_any_moment_of_an_unsubscribe(own_broker: Broker, pauses: int) -> None:
    """A cancellation that a driver swallows does not keep a task alive for ever."""
    broadcaster = own_broker.broadcaster(linger=0.0)
    await broadcaster.connect()
    async with broadcaster.subscribe("room"):
        pass
    for _ in range(pauses):
        await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        await broadcaster.disconnect()
