"""Promise 2: when subscribe yields, everything published afterwards by anyone arrives."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

from fastapi_broadcaster import BackendUnavailableError, Broadcaster, Event
from tests.backends import BackendCase, rows
from tests.brokers import Broker
from tests.conformance.tools import Barrier, lost, reading, take, take_items, take_until, until

PROCESS = """
import asyncio, sys
from fastapi_broadcaster import Broadcaster

async def main(url, heard, spoken):
    async with Broadcaster(url) as broadcaster, broadcaster.subscribe(heard) as subscriber:
        print("live", flush=True)
        async for event in subscriber:
            await broadcaster.publish(spoken, "echo of " + event.message)
            if event.message == "2":
                return

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("after", [False, True], ids=["not_sent", "not_answered"])
async def test_three_first_subscribers(broker: Broker, name: str, after: bool) -> None:
    """All of them wait while the broker's subscribe is held open; all of them are live then."""
    broadcaster = broker.broadcaster()
    barrier = Barrier(broadcaster, "subscribe", after=after)
    barrier.close()
    heard: list[str] = []

    async def listen() -> None:
        async with broadcaster.subscribe(name) as subscriber:
            live.release()
            heard.extend(await take(subscriber, 1))

    live = asyncio.Semaphore(0)
    async with broadcaster:
        listening = [asyncio.create_task(listen()) for _ in range(3)]
        await until(lambda: barrier.held)
        assert live.locked()
        barrier.open()
        for _ in listening:
            await live.acquire()
        await broadcaster.publish(name, "hello")
        await asyncio.gather(*listening)
    assert heard == ["hello"] * 3
    assert barrier.calls == 1


async def test_a_first_subscriber_that_gives_up_leaves_the_others(
    broker: Broker, name: str
) -> None:
    broadcaster = broker.broadcaster(linger=0.0)
    barrier = Barrier(broadcaster, "subscribe")
    barrier.close()
    async with broadcaster:
        first = asyncio.create_task(broadcaster.subscribe(name).__aenter__())
        await until(lambda: barrier.held)
        second = broadcaster.subscribe(name)
        entering = asyncio.create_task(second.__aenter__())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        barrier.open()
        subscriber = await entering
        await broadcaster.publish(name, "hello")
        assert await take(subscriber, 1) == ["hello"]
        await second.__aexit__(None, None, None)


async def test_subscribe_waits_in_an_outage_then_raises(own_broker: Broker) -> None:
    async with own_broker.broadcaster(subscribe_timeout=0.4) as broadcaster:
        await own_broker.kill()
        await lost(broadcaster)
        begun = time.monotonic()
        with pytest.raises(BackendUnavailableError, match=r"within 0\.4 s") as refusal:
            await broadcaster.subscribe("room").__aenter__()
        assert 0.3 < time.monotonic() - begun < 20
        assert refusal.value.maybe_published is False


async def test_subscribe_waits_for_the_broker_to_come_back(own_broker: Broker) -> None:
    async with own_broker.broadcaster(subscribe_timeout=90) as broadcaster:
        await own_broker.kill()
        await lost(broadcaster)
        subscription = broadcaster.subscribe("room")
        entering = asyncio.create_task(subscription.__aenter__())
        await asyncio.sleep(0.1)
        assert not entering.done()
        await own_broker.restart()
        subscriber = await entering
        await broadcaster.publish("room", "hello")
        assert await take(subscriber, 1) == ["hello"]
        await subscription.__aexit__(None, None, None)


async def test_an_older_subscribers_gap_is_not_a_newcomers(
    case: BackendCase, own_broker: Broker
) -> None:
    async with (
        own_broker.broadcaster(subscribe_timeout=90) as broadcaster,
        reading(broadcaster.subscribe("room")) as older,
    ):
        await own_broker.kill()
        await lost(broadcaster)
        subscription = broadcaster.subscribe("room")
        entering = asyncio.create_task(subscription.__aenter__())
        await asyncio.sleep(0.1)
        await own_broker.restart()
        newcomer = await entering
        await broadcaster.publish("room", "hello")
        assert await take_until(newcomer, "hello") == []
        await older.until("hello")
        assert len(older.gaps) == (1 if case.loses_on_outage else 0)
        await subscription.__aexit__(None, None, None)


async def test_64_races_of_subscribe_and_publish(broadcaster: Broadcaster, name: str) -> None:
    async def race(number: int) -> None:
        channel = f"{name}.{number % 8}"
        for turn in range(5):
            async with broadcaster.subscribe(channel) as subscriber:
                mine = f"{number} {turn}"
                await broadcaster.publish(channel, mine)
                await take_until(subscriber, mine)

    await asyncio.gather(*(race(number) for number in range(64)))


async def test_coming_back_within_linger_and_just_after(broker: Broker, name: str) -> None:
    """The broker's unsubscribe and the next subscribe of a name never meet wrongly."""
    async with broker.broadcaster(linger=0.01) as broadcaster:
        for turn in range(60):
            async with broadcaster.subscribe(name) as subscriber:
                await broadcaster.publish(name, str(turn))
                await take_until(subscriber, str(turn))
            await asyncio.sleep(0.0005 * (turn % 40))


async def test_another_broadcaster_on_the_same_broker(
    case: BackendCase, broker: Broker, broadcaster: Broadcaster, name: str
) -> None:
    """Where brokers are shared all hear all; `memory://` reaches its own process part only."""
    async with broker.broadcaster() as other, broadcaster.subscribe(name) as subscriber:
        for turn in range(20):
            await other.publish(name, f"other {turn}")
        await broadcaster.publish(name, "end")
        wanted = [f"other {turn}" for turn in range(20)] if case.shared else []
        assert await take_until(subscriber, "end") == wanted


@rows(lambda case: case.processes)
async def test_another_process(broker: Broker, broadcaster: Broadcaster, name: str) -> None:
    url, there, here = broker.url, f"{name}.there", f"{name}.here"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", PROCESS, url, there, here),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(60), broadcaster.subscribe(here) as subscriber:
        assert await process.stdout.readline() == b"live\n"
        for message in "012":
            await broadcaster.publish(there, message)
        assert await take(subscriber, 3) == ["echo of 0", "echo of 1", "echo of 2"]
        assert await process.wait() == 0


async def test_patterns_hear_channels_of_later(
    refused, case: BackendCase, broadcaster: Broadcaster, name: str
) -> None:
    if refused.pattern(broadcaster, f"{name}.*"):
        return
    async with broadcaster.subscribe(pattern=f"{name}.*") as subscriber:
        await broadcaster.publish(f"{name}.new", "hello")
        [event] = await take_items(subscriber, 1)
        assert event == Event(f"{name}.new", "hello")
