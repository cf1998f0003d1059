"""Many channels, many messages, several processes."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time

from fastapi_broadcaster import Broadcaster, Subscriber
from fastapi_broadcaster.backends._redis_reader import WIDTH
from tests.conformance.tools import back, take, take_until, until
from tests.redis_stream.broker import RedisStreamBroker

CHILD = """
import asyncio, sys
from fastapi_broadcaster import Broadcaster

async def main() -> None:
    async with Broadcaster(sys.argv[1]) as broadcaster:
        for number in range(100):
            receipt = await broadcaster.publish(sys.argv[2], str(number))
            if number == 39:
                print(receipt.id)

asyncio.run(main())
"""


def _child(url: str, name: str) -> str:
    """Publish 100 numbers from another process; the id that it gave the 40th."""
    command = [sys.executable, "-W", "error", "-c", CHILD, url, name]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


async def test_an_id_of_another_process(
    broadcaster: Broadcaster, shared: RedisStreamBroker
) -> None:
    name = "process"
    async with broadcaster.subscribe(name) as live:
        id = await asyncio.to_thread(_child, shared.url, name)
        assert await take(live, 100) == [str(number) for number in range(100)]
    async with broadcaster.subscribe(name, after=id) as subscriber:
        assert await take(subscriber, 60) == [str(number) for number in range(40, 100)]
        assert subscriber.gaps == 0
    page = await broadcaster.channel(name).page(limit=2, before=id)
    assert [event.message for event in page.items] == ["37", "38"]


async def _publish_many(broadcaster: Broadcaster, name: str, count: int) -> None:
    for start in range(0, count, 500):
        await asyncio.gather(
            *(broadcaster.publish(name, str(n)) for n in range(start, min(start + 500, count)))
        )


async def test_a_slow_reader_catches_up_over_50_000_messages(own: RedisStreamBroker) -> None:
    async with (
        own.broadcaster(log_size=60_000) as broadcaster,
        broadcaster.subscribe("room", buffer_size=200) as slow,
    ):
        publishing = asyncio.create_task(_publish_many(broadcaster, "room", 50_000))
        found = []
        for pause in range(20):
            found += await take(slow, 100)
            await asyncio.sleep(0.01 * (pause % 3))
        await publishing
        await broadcaster.publish("room", "end")
        while len(found) < 50_000:
            found += await take(slow, 1_000)
        assert await take_until(slow, "end") == []
        assert slow.gaps == 0
    assert found == [str(number) for number in range(50_000)]


async def _enter(
    broadcaster: Broadcaster, names: list[str], stack: list[Subscriber[str]]
) -> list[object]:
    entered = [broadcaster.subscribe(name, buffer_size=16) for name in names]
    stack += await asyncio.gather(*(one.__aenter__() for one in entered))
    return list(entered)


async def test_2_000_channels(own: RedisStreamBroker) -> None:
    """Each hears its own and nothing else, also after a loss; those that leave are given back."""
    names = [f"room.{number}" for number in range(2_000)]
    async with own.broadcaster(linger=0.0, subscribe_timeout=60, publish_timeout=60) as broadcaster:
        subscribers: list[Subscriber[str]] = []
        entered = await _enter(broadcaster, names, subscribers)
        assert len(await own.subscriptions()) == 2_000
        await own.drop_clients()
        await until(lambda: broadcaster.health().reconnects)
        await back(broadcaster)
        await asyncio.gather(*(broadcaster.publish(name, name) for name in names))
        heard = await asyncio.gather(*(take(subscriber, 1) for subscriber in subscribers))
        assert heard == [[name] for name in names]
        assert sum(subscriber.gaps for subscriber in subscribers) == 0

        for subscription in entered[1:]:
            await subscription.__aexit__(None, None, None)  # type: ignore[attr-defined]
        await until(lambda: _only(own, names[0]))
        await until(lambda: _clients_are(own, 4))
        await broadcaster.publish(names[0], "end")
        assert await take(subscribers[0], 1) == ["end"]
        await entered[0].__aexit__(None, None, None)  # type: ignore[attr-defined]
    assert WIDTH < 2_000


async def _only(own: RedisStreamBroker, name: str) -> bool:
    return await own.subscriptions() == {name}


async def _clients_are(own: RedisStreamBroker, most: int) -> bool:
    """One reads, one asks, one publishes, and who asks here; earlier ones may be going."""
    return len((await own.ask("CLIENT", "LIST")).splitlines()) <= most


async def test_a_new_channel_is_heard_at_once(own: RedisStreamBroker) -> None:
    """Though the readers wait for other channels at that moment."""
    async with own.broadcaster() as broadcaster, broadcaster.subscribe("idle"):
        delays = []
        for number in range(20):
            async with broadcaster.subscribe(f"room.{number}") as subscriber:
                begun = time.perf_counter()
                await broadcaster.publish(f"room.{number}", "hello")
                assert await take(subscriber, 1) == ["hello"]
                delays.append(time.perf_counter() - begun)
    assert statistics.median(delays) < 1.5  # it would be 4 if nobody woke them


async def test_channels_join_under_a_flood(own: RedisStreamBroker) -> None:
    """What is published behind each subscribe arrives; the flood loses nothing meanwhile."""
    async with (
        own.broadcaster(log_size=30_000) as broadcaster,
        broadcaster.subscribe("flood") as flood,
    ):
        flooding = asyncio.create_task(_publish_many(broadcaster, "flood", 20_000))
        subscribers: list[Subscriber[str]] = []
        names = [f"room.{number}" for number in range(100)]
        entered = []
        for name in names:
            entered += await _enter(broadcaster, [name], subscribers)
            await broadcaster.publish(name, name)
        heard = await asyncio.gather(*(take(subscriber, 1) for subscriber in subscribers))
        assert heard == [[name] for name in names]
        await flooding
        for start in range(0, 20_000, 1_000):
            assert await take(flood, 1_000) == [str(start + number) for number in range(1_000)]
        assert flood.gaps == 0
        for subscription in entered:
            await subscription.__aexit__(None, None, None)  # type: ignore[attr-defined]
