"""What leaves for the streams, and what comes of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from redis.asyncio import Redis

from fastapi_broadcaster import (
    BackendError,
    BackendUnavailableError,
    Broadcaster,
    ChannelNameError,
    HistoryBackend,
    Message,
)
from tests.conformance.tools import publish_all, reading, take, until
from tests.proxy import Proxy
from tests.redis_stream.broker import RedisStreamBroker


async def test_redis_cli_sees_the_plain_payload(
    broadcaster: Broadcaster, shared: RedisStreamBroker
) -> None:
    text, binary = "häl\r\nlo", bytes(range(256))
    ids = [str((await broadcaster.publish("plain", one)).id) for one in (text, binary)]
    entries = await shared.ask("XRANGE", "plain", "-", "+")
    assert [(id.decode(), fields) for id, fields in entries] == [
        (ids[0].partition(".")[2], {b"message": text.encode()}),
        (ids[1].partition(".")[2], {b"message": binary}),
    ]
    async with broadcaster.subscribe("plain", after=entries[0][0].decode()) as subscriber:
        await broadcaster.publish("plain", "end")  # the entry's own ID will do
        assert await take(subscriber, 1) == ["end"]
        assert (subscriber.invalid, subscriber.gaps) == (1, 0)


async def test_foreign_entries_are_heard_live_and_later(
    broadcaster: Broadcaster, shared: RedisStreamBroker
) -> None:
    async with broadcaster.subscribe("foreign") as subscriber:
        await shared.ask("XADD", "foreign", "*", "message", "a")
        await shared.ask("XADD", "foreign", "*", "data", "b")
        await shared.ask("XADD", "foreign", "*", "author", "me", "message", "c")
        await shared.ask("XADD", "foreign", "*", "text", "d", "author", "me")
        assert await take(subscriber, 4) == ["a", "b", "c", "d"]
    async with broadcaster.subscribe("foreign", history="all") as subscriber:
        assert await take(subscriber, 4) == ["a", "b", "c", "d"]


async def test_a_prefix(shared: RedisStreamBroker) -> None:
    async with (
        Broadcaster(f"{shared.url}?prefix=app%3A") as prefixed,
        shared.broadcaster() as plain,
        prefixed.subscribe("prefix") as subscriber,
        plain.subscribe("prefix") as other,
    ):
        await shared.ask("XADD", "app:prefix", "*", "message", "a")
        assert await take(subscriber, 1) == ["a"]
        await prefixed.publish("prefix", "b")
        await plain.publish("prefix", "c")
        assert await take(subscriber, 1) == ["b"]
        assert await take(other, 1) == ["c"]
    assert await shared.ask("XLEN", "app:prefix") == 2
    assert await shared.ask("EXISTS", "app:fastapi-broadcaster:epoch") == 1


async def test_our_own_keys_are_no_channels(broadcaster: Broadcaster) -> None:
    with pytest.raises(ChannelNameError):
        await broadcaster.publish("fastapi-broadcaster:epoch", "no")
    with pytest.raises(ChannelNameError):
        broadcaster.subscribe("fastapi-broadcaster:wake:1")


async def test_the_log_is_bounded(shared: RedisStreamBroker) -> None:
    async with shared.broadcaster(log_size=100) as broadcaster:
        await asyncio.gather(*(broadcaster.publish("bounded", str(n)) for n in range(1_000)))
    assert 100 <= await shared.ask("XLEN", "bounded") < 300


async def test_a_refused_message_fails_only_its_own_caller(own: RedisStreamBroker) -> None:
    await own.ask("SET", "string", "not a stream")
    async with own.broadcaster() as broadcaster, reading(broadcaster.subscribe("room")) as reader:
        names = ["room", "string", "room", "string", "room"]
        outcomes = await asyncio.gather(
            *(broadcaster.publish(name, str(n)) for n, name in enumerate(names)),
            return_exceptions=True,
        )
        await reader.until("4")
    assert reader.messages == ["0", "2", "4"]
    for name, outcome in zip(names, outcomes, strict=True):
        assert isinstance(outcome, BackendError) == (name == "string")
        assert not isinstance(outcome, BackendUnavailableError)


async def test_a_lost_reply(own: RedisStreamBroker) -> None:
    """The caller is told, nothing is sent again, and what was answered before is not lost."""
    async with Proxy(own.server.port, lose_reply_to=b"lost") as proxy:
        url = f"redis-stream://127.0.0.1:{proxy.port}"
        async with Broadcaster(url) as broadcaster:
            await broadcaster.publish("room", "first")
            with pytest.raises(BackendUnavailableError) as caught:
                await broadcaster.publish("room", "lost")
            assert caught.value.maybe_published
            await broadcaster.publish("room", "last")
            async with broadcaster.subscribe("room", history="all") as subscriber:
                assert await take(subscriber, 3) == ["first", "lost", "last"]
        assert proxy.lost == 1
    assert await own.ask("XLEN", "room") == 3


class HalfReply(Proxy):
    """Lets the first reply of the doomed batch through, and cuts then."""

    async def _replies(
        self, above: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await above.read(65_536):
                if doomed.is_set():
                    while data.count(b"\r\n") < 2:
                        data += await above.read(65_536)
                    size, id, _ = data.split(b"\r\n", 2)
                    data = b"\r\n".join([size, id, b""])
                writer.write(data)
                await writer.drain()
                if doomed.is_set():
                    return


async def test_half_a_reply(own: RedisStreamBroker) -> None:
    """Who was answered is not told of the loss."""
    async with (
        HalfReply(own.server.port, lose_reply_to=b"second") as proxy,
        Broadcaster(f"redis-stream://127.0.0.1:{proxy.port}") as broadcaster,
    ):
        batch = [Message("room", data) for data in (b"first", b"second", b"third")]
        first, *others = await broadcaster.backend.publish(batch)
        assert isinstance(first, tuple)
        for outcome in others:
            assert isinstance(outcome, BackendUnavailableError)
            assert outcome.maybe_published
    assert await own.ask("XLEN", "room") == 3


async def test_killed_in_the_middle_of_a_batch(own: RedisStreamBroker) -> None:
    """Every caller knows: published, or perhaps; the log holds nothing twice."""
    async with own.broadcaster(publish_timeout=20) as broadcaster:
        publishing = [
            asyncio.create_task(broadcaster.publish("room", f"{n} " + "x" * 1_000))
            for n in range(3_000)
        ]
        await until(lambda: sum(task.done() for task in publishing) > 200)
        await own.kill()
        await own.restart()
        outcomes = await asyncio.gather(*publishing, return_exceptions=True)
        async with broadcaster.subscribe("room", history="all") as subscriber:
            length = await own.ask("XLEN", "room")
            held = [int(message.split()[0]) for message in await take(subscriber, length)]
    assert len(set(held)) == len(held)
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, BackendUnavailableError):
            assert outcome.maybe_published
        else:
            assert not isinstance(outcome, BaseException)
            assert number in set(held)


async def test_a_replica_takes_nothing_until_it_is_the_master(own: RedisStreamBroker) -> None:
    async with own.broadcaster(publish_timeout=20) as broadcaster:
        await broadcaster.publish("room", "a")
        await own.ask("REPLICAOF", "127.0.0.1", "1")
        waiting = asyncio.create_task(broadcaster.publish("room", "b"))
        async with own.broadcaster(publish_timeout=0.2) as hasty:
            with pytest.raises(BackendUnavailableError, match="nothing was published") as caught:
                await hasty.publish("room", "c")
        assert not caught.value.maybe_published
        assert not waiting.done()
        await own.ask("REPLICAOF", "NO", "ONE")
        await waiting
        async with broadcaster.subscribe("room", history="all") as subscriber:
            assert await take(subscriber, 2) == ["a", "b"]
    assert await own.ask("XLEN", "room") == 2


async def test_a_loading_server_counts_as_away(own: RedisStreamBroker) -> None:
    """After a restart with much data; nothing was taken, so it is published once it can be."""
    async with own.broadcaster(publish_timeout=30) as broadcaster:
        async with (
            Redis.from_url(own.server.url, socket_timeout=120) as client,
            client.pipeline(transaction=False) as pipeline,
        ):
            for _ in range(20_000):
                pipeline.xadd("bulk", {"message": "x" * 2_000})
            await pipeline.execute()
        async with reading(broadcaster.subscribe("room")) as reader:
            await broadcaster.publish("room", "before")
            await own.kill()
            starting = asyncio.create_task(own.restart())
            await publish_all(broadcaster, "room", ["after", "end"])
            await reader.until("end")
            await starting
    assert reader.messages == ["before", "after", "end"]
    assert reader.gaps == []


async def test_a_cancelled_publish_leaves_the_next_its_own_reply(
    broadcaster: Broadcaster,
) -> None:
    backend = broadcaster.backend
    assert isinstance(backend, HistoryBackend)
    for pauses in range(6):
        task = asyncio.ensure_future(backend.publish([Message("cancelled", b"a")]))
        for _ in range(pauses):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        [position] = await backend.publish([Message("cancelled", b"b")])
        [last] = await backend.history("cancelled", limit=1)
        assert (last.data, last.position) == (b"b", position)
