"""Where something may be missing a gap stands, and only there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from itertools import pairwise

import pytest

from fastapi_broadcaster import BackendUnavailableError, Broadcaster, Event, Gap, Message
from fastapi_broadcaster.backends._redis_reader import Reader as StreamReader
from fastapi_broadcaster.backends.redis_stream import RedisStreamBackend
from tests.conformance.tools import back, lost, publish_all, reading, take, take_until, until
from tests.redis_stream.broker import RedisStreamBroker

FUTURE = "99999999999999"


def hold_back(broadcaster: Broadcaster) -> asyncio.Event:
    """Let the next generation begin only when the event is set."""
    allowed = asyncio.Event()
    listen = broadcaster.backend.listen

    async def listen_later() -> AsyncIterator[Sequence[Message | Gap]]:
        await allowed.wait()
        async for batch in listen():
            yield batch

    broadcaster.backend.listen = listen_later
    return allowed


async def test_killed_again_and_again_while_publishing(own: RedisStreamBroker) -> None:
    """No acknowledged message is lost, none arrives twice, and there is no gap."""
    acknowledged: list[str] = []
    stopped = asyncio.Event()

    async def publish(broadcaster: Broadcaster, name: str) -> None:
        number = 0
        while not stopped.is_set():
            message = f"{name} {number}"
            number += 1
            try:
                await broadcaster.publish("room", message)
                acknowledged.append(message)
            except BackendUnavailableError:
                pass

    async with (
        own.broadcaster(publish_timeout=30) as broadcaster,
        own.broadcaster(publish_timeout=30) as other,
        reading(broadcaster.subscribe("room")) as reader,
        reading(other.subscribe("room")) as second,
    ):
        publishing = [asyncio.create_task(publish(broadcaster, name)) for name in "abcd"]
        publishing.append(asyncio.create_task(publish(other, "e")))
        for _ in range(3):
            reached = len(acknowledged) + 300
            await until(lambda: len(acknowledged) >= reached)  # noqa: B023
            await own.kill()
            await lost(broadcaster)
            await own.restart()
            await back(broadcaster)
            await back(other)
        stopped.set()
        await asyncio.gather(*publishing)
        await broadcaster.publish("room", "end")
        await reader.until("end")
        await second.until("end")
    assert reader.gaps == second.gaps == []
    assert reader.messages == second.messages
    assert len(set(reader.messages)) == len(reader.messages)
    assert set(acknowledged) <= set(reader.messages)
    for name in "abcde":
        heard = [int(message[2:]) for message in reader.messages if message.startswith(f"{name} ")]
        assert heard == sorted(heard)


async def test_a_flush_under_a_live_subscriber(own: RedisStreamBroker) -> None:
    async with (
        own.broadcaster() as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
        reading(broadcaster.subscribe("quiet")) as quiet,
    ):
        await publish_all(broadcaster, "room", ["a", "b"])
        await reader.until("b")
        await own.ask("FLUSHALL")
        await publish_all(broadcaster, "room", ["c", "d"])
        await reader.until("d")
        await until(lambda: quiet.gaps)
        await publish_all(broadcaster, "quiet", ["e"])
        await quiet.until("e")
    items = [item if isinstance(item, Gap) else item.message for item in reader.items]
    assert items == ["a", "b", Gap("room", "reset"), "c", "d"]
    assert quiet.gaps == [Gap("quiet", "reset")]
    assert quiet.messages == ["e"]


async def test_a_flush_that_nobody_follows_is_noticed(own: RedisStreamBroker) -> None:
    """Within some seconds, though no message comes."""
    async with own.broadcaster() as broadcaster, reading(broadcaster.subscribe("room")) as reader:
        await broadcaster.publish("room", "a")
        await reader.until("a")
        await own.ask("FLUSHALL")
        await until(lambda: reader.gaps)
    assert reader.gaps == [Gap("room", "reset")]


async def test_ids_that_go_backwards(
    own: RedisStreamBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's clock was wrong, and the key went: XREAD alone would wait for ever."""
    monkeypatch.setattr(StreamReader, "check_every", 0.0)
    async with (
        own.broadcaster() as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        await own.ask("XADD", "room", f"{FUTURE}-0", "message", "from the future")
        await reader.until("from the future")
        await own.ask("DEL", "room")
        await broadcaster.publish("room", "skipped, which the gap tells")
        await until(lambda: reader.gaps)
        async with reading(broadcaster.subscribe("room")) as newcomer:
            await broadcaster.publish("room", "end")
            await reader.until("end")
            await newcomer.until("end")
    assert [gap.reason for gap in reader.gaps] == ["reset"]
    assert newcomer.items == [Event("room", "end")]


async def test_ids_that_go_backwards_in_an_outage(own: RedisStreamBroker) -> None:
    async with own.broadcaster() as broadcaster, reading(broadcaster.subscribe("room")) as reader:
        await own.ask("XADD", "room", f"{FUTURE}-0", "message", "from the future")
        await reader.until("from the future")
        await own.kill()
        await own.wipe()
        await own.restart()
        await back(broadcaster)
        await until(lambda: reader.gaps)
        await broadcaster.publish("room", "end")
        await reader.until("end")
    assert reader.gaps == [Gap("room", "reset")]


async def test_trimmed_while_away(own: RedisStreamBroker) -> None:
    """By others, by any number of entries: exactly one gap, before what is left."""
    async with (
        own.broadcaster() as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
        reading(broadcaster.subscribe("whole")) as whole,
    ):
        for name in ("room", "whole"):
            await broadcaster.publish(name, "before")
        await reader.until("before")
        await whole.until("before")
        allowed = hold_back(broadcaster)
        await own.drop_clients()
        await lost(broadcaster)
        async with own.broadcaster() as other:
            for name in ("room", "whole"):
                await publish_all(other, name, [str(number) for number in range(10)])
            await own.ask("XTRIM", "room", "MAXLEN", "4")
            allowed.set()
            await back(broadcaster)
            for name in ("room", "whole"):
                await other.publish(name, "end")
        await reader.until("end")
        await whole.until("end")
    items = [item if isinstance(item, Gap) else item.message for item in reader.items]
    assert items == ["before", Gap("room", "expired"), "6", "7", "8", "9", "end"]
    assert whole.gaps == []
    assert whole.messages == ["before", *(str(number) for number in range(10)), "end"]


async def test_trimmed_between_two_subscriptions(own: RedisStreamBroker) -> None:
    async with own.broadcaster() as broadcaster:
        ids = [str((await broadcaster.publish("room", str(n))).id) for n in range(10)]
        await own.ask("XTRIM", "room", "MAXLEN", "4")
        await broadcaster.publish("room", "end")
        async with broadcaster.subscribe("room", after=ids[3]) as subscriber:
            assert await take_until(subscriber, "end") == [Gap("room", "expired"), *"6789"]
        async with broadcaster.subscribe("room", after=ids[6]) as subscriber:
            assert await take_until(subscriber, "end") == ["7", "8", "9"]


async def test_an_entry_that_was_deleted_by_hand(own: RedisStreamBroker) -> None:
    """What stands around it is not delivered twice."""
    async with own.broadcaster() as broadcaster:
        ids = [str((await broadcaster.publish("room", str(n))).id) for n in range(4)]
        await broadcaster.publish("room", "end")
        await own.ask("XDEL", "room", ids[1].partition(".")[2])
        async with broadcaster.subscribe("room", after=ids[1]) as subscriber:
            assert await take_until(subscriber, "end") == [Gap("room", "expired"), "2", "3"]


async def test_trimmed_to_nothing_and_nothing_came(own: RedisStreamBroker) -> None:
    async with own.broadcaster() as broadcaster:
        last = (await broadcaster.publish("room", "last")).id
        await own.ask("XTRIM", "room", "MAXLEN", "0")
        async with broadcaster.subscribe("room", after=last) as subscriber:
            assert subscriber.gaps == 0
            await broadcaster.publish("room", "end")
            assert await take_until(subscriber, "end") == []


async def test_the_id_of_an_empty_channel(own: RedisStreamBroker) -> None:
    async with own.broadcaster() as broadcaster:
        async with broadcaster.subscribe("room") as subscriber:
            id = subscriber.cursor
        assert id is not None
        assert id.partition(".")[2].startswith("0-0@")
        await publish_all(broadcaster, "room", ["a", "b"])
        async with broadcaster.subscribe("room", after=id) as subscriber:
            assert await take(subscriber, 2) == ["a", "b"]
            assert subscriber.gaps == 0
        await own.ask("XTRIM", "room", "MAXLEN", "1")
        async with broadcaster.subscribe("room", after=id) as subscriber:
            assert await take_until(subscriber, "b") == [Gap("room", "expired")]
        await own.ask("FLUSHALL")
        await broadcaster.publish("room", "c")
        async with broadcaster.subscribe("room", after=id) as subscriber:
            assert await take_until(subscriber, "c") == [Gap("room", "reset")]


async def test_the_log_outruns_a_live_reader(own: RedisStreamBroker) -> None:
    """A full page whose predecessor was trimmed: told, at that place, and once."""
    await own.ask("CONFIG", "SET", "stream-node-max-entries", "10")
    async with own.broadcaster(log_size=100) as other, own.broadcaster() as broadcaster:
        backend = broadcaster.backend
        assert isinstance(backend, RedisStreamBackend)
        async with reading(broadcaster.subscribe("room", overflow="drop_oldest")) as reader:
            await broadcaster.publish("room", "before")
            await reader.until("before")
            listening = backend._listening
            assert listening is not None
            [stream_reader] = listening._readers
            took = stream_reader._take
            hold = asyncio.Event()

            async def take_later(reply: object) -> list[Message | Gap]:
                await hold.wait()
                return await took(reply)

            stream_reader._take = take_later
            await publish_all(other, "room", [str(number) for number in range(1_000)])
            hold.set()
            await other.publish("room", "end")
            await reader.until("end")
    items = [item if isinstance(item, Gap) else item.message for item in reader.items]
    numbers = [int(item) for item in items if isinstance(item, str) and item.isdigit()]
    [gap] = reader.gaps
    assert gap == Gap("room", "expired")
    at = items.index(gap)
    holes = [index for index, (a, b) in enumerate(pairwise(numbers)) if b != a + 1]
    assert len(holes) == 1
    assert items[at - 1] == str(numbers[holes[0]])
    assert numbers[-1] == 999


async def test_a_log_that_goes_when_idle(
    own: RedisStreamBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `ttl`: an idle log goes, and nobody who was there is told of a gap.

    `ttl` is much longer than the time since the reader has heard of the server.
    """
    monkeypatch.setattr("fastapi_broadcaster.backends._redis_reader._BLOCK", 0.5)
    url = f"{own.url}?ttl=6"
    async with Broadcaster(url) as broadcaster, reading(broadcaster.subscribe("room")) as reader:
        first = (await broadcaster.publish("room", "a")).id
        assert 0 < await own.ask("PTTL", "room") <= 6_000
        await until(lambda: _gone(own, "room"))
        await own.drop_clients()
        await until(lambda: broadcaster.health().reconnects)
        await back(broadcaster)
        await broadcaster.publish("room", "b")
        await reader.until("b")
        async with broadcaster.subscribe("room", after=first) as late:
            assert await take_until(late, "b") == [Gap("room", "expired")]
    assert reader.gaps == []
    assert reader.messages == ["a", "b"]


async def _gone(own: RedisStreamBroker, key: str) -> bool:
    return not await own.ask("EXISTS", key)


async def test_history_by_time_goes_by_the_servers_clock(own: RedisStreamBroker) -> None:
    now = round(time.time() * 1000)
    for age, message in ((60_000, "old"), (20_000, "young"), (0, "new")):
        await own.ask("XADD", "room", f"{now - age}-1", "message", message)
    async with own.broadcaster() as broadcaster:
        async with broadcaster.subscribe("room", history=timedelta(seconds=40)) as subscriber:
            assert await take(subscriber, 2) == ["young", "new"]
        async with broadcaster.subscribe("room", history="all") as subscriber:
            event = await subscriber.get()
            assert event.time is not None
            assert round(event.time.timestamp() * 1000) == now - 60_000
