"""URLs, options, and servers that cannot be used: each with the exact error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
from redis.asyncio import Redis as RedisClient

from fastapi_broadcaster import (
    BackendError,
    BackendUnavailableError,
    Broadcaster,
    ConnectionLostError,
    UnsupportedError,
)
from fastapi_broadcaster.backends import create_backend
from fastapi_broadcaster.backends.redis_stream import RedisStreamBackend
from servers import Redis, free_port
from tests.conformance.tools import reading, take, until
from tests.redis_stream.broker import RedisStreamBroker


@pytest.mark.parametrize(
    ("query", "error", "text"),
    [
        ("cluster=true", UnsupportedError, "Cluster"),
        ("cluster=1", UnsupportedError, "rediss?://"),
        ("maxlen=many", ValueError, "maxlen and ttl"),
        ("maxlen=0", ValueError, "positive"),
        ("maxlen=-1", ValueError, "positive"),
        ("ttl=0", ValueError, "positive"),
        ("ttl=soon", ValueError, "maxlen and ttl"),
        ("nonsense=1", ValueError, "unknown option 'nonsense'"),
        ("db=x", ValueError, "db"),
    ],
)
@pytest.mark.parametrize("scheme", ["redis-stream", "rediss-stream"])
def test_bad_urls(scheme: str, query: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        create_backend(f"{scheme}://user:secret@127.0.0.1:1/0?{query}")
    assert "secret" not in str(caught.value)


def test_names_show_no_password() -> None:
    for scheme in ("redis-stream", "rediss-stream"):
        backend = create_backend(f"{scheme}://user:secret@127.0.0.1:1/3?ttl=3.5&cluster=false")
        assert isinstance(backend, RedisStreamBackend)
        assert str(backend) == f"{scheme}://127.0.0.1:1"


async def test_the_users_own_client(shared: RedisStreamBroker) -> None:
    """Its address and database are used; its connections, retries and decoding are not."""
    async with RedisClient.from_url(f"{shared.server.url}/5", decode_responses=True) as client:
        backend = RedisStreamBackend(client=client, maxlen=100, prefix="mine:")
        async with (
            Broadcaster(backend=backend) as broadcaster,
            broadcaster.subscribe("room") as subscriber,
        ):
            await broadcaster.publish("room", "a")
            assert await take(subscriber, 1) == ["a"]
        assert await client.xlen("mine:room") == 1
    assert await shared.ask("EXISTS", "mine:room") == 0


@pytest.mark.parametrize("protocol", [2, 3])
async def test_both_protocols(shared: RedisStreamBroker, protocol: int) -> None:
    name = f"protocol.{protocol}"
    async with Broadcaster(f"{shared.url}?protocol={protocol}") as broadcaster:
        async with broadcaster.subscribe([name, f"{name}.other"]) as subscriber:
            start = subscriber.cursor
            first = (await broadcaster.publish(name, "a")).id
            await broadcaster.publish(f"{name}.other", "b")
            assert sorted(await take(subscriber, 2)) == ["a", "b"]
        async with broadcaster.subscribe(name, after=first) as subscriber:
            await broadcaster.publish(name, "c")
            assert await take(subscriber, 1) == ["c"]
        async with broadcaster.subscribe([name, f"{name}.other"], after=start) as subscriber:
            taken = await take(subscriber, 3)  # within a millisecond channels have no order
            assert sorted(taken) == ["a", "b", "c"]
            assert taken.index("a") < taken.index("c")
            assert subscriber.gaps == 0


@asynccontextmanager
async def old_server(version: bytes) -> AsyncIterator[int]:
    """Says that it is of that version, and refuses everything else."""
    lines: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.add(asyncio.current_task())
        while count := (await reader.readline())[1:]:
            words = [
                (await reader.readline(), await reader.readline())[1] for _ in range(int(count))
            ]
            if words[0].strip().upper() == b"HELLO":
                about = [b"server", b"redis", b"version", version]
                bulks = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in about)
                writer.write(b"%%%d\r\n%b" % (len(about) // 2, bulks))
            else:
                writer.write(b"-ERR unknown command\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.wait([line for line in lines if line is not None])


@pytest.mark.parametrize("version", [b"6.2.14", b"5.0.0"])
async def test_an_old_redis_is_refused(version: bytes) -> None:
    async with old_server(version) as port:
        broadcaster = Broadcaster(f"redis-stream://127.0.0.1:{port}")
        with pytest.raises(UnsupportedError, match=rf"7\.0 or newer, not {version.decode()}"):
            await broadcaster.connect()


class Cluster(Redis):
    """One node of a cluster."""

    def command(self) -> Sequence[str]:
        bus = str(free_port())
        return [*super().command(), "--cluster-enabled", "yes", "--cluster-port", bus]


async def test_a_cluster_is_refused() -> None:
    with Cluster.private() as server:
        broadcaster = Broadcaster(f"redis-stream://127.0.0.1:{server.port}")
        with pytest.raises(UnsupportedError, match="Cluster"):
            await broadcaster.connect()


async def test_nobody_there() -> None:
    broadcaster = Broadcaster("redis-stream://user:secret@127.0.0.1:1")
    with pytest.raises(BackendUnavailableError, match=r"127\.0\.0\.1:1") as caught:
        await broadcaster.connect()
    assert "secret" not in str(caught.value)


async def test_a_frozen_server(own: RedisStreamBroker) -> None:
    """It takes the connection and says nothing: no generation, and no page, waits for ever."""
    url = f"{own.url}?socket_timeout=0.3&socket_connect_timeout=0.3"
    broadcaster = Broadcaster(url)

    async def connected() -> bool:
        """While it is not frozen yet, it may still be slower than that."""
        with suppress(BackendUnavailableError):
            await broadcaster.connect()
            return True
        return False

    await until(connected)
    try:
        await own.pause()
        for call in (create_backend(url).connect, broadcaster.channel("room").page):
            with pytest.raises(BackendUnavailableError):
                async with asyncio.timeout(20):
                    await call()
        with pytest.raises(ConnectionLostError):
            async with asyncio.timeout(20):
                await anext(aiter(create_backend(url).listen()))
    finally:
        await own.resume()
        await broadcaster.disconnect()


async def test_users_and_passwords(own: RedisStreamBroker) -> None:
    keys = ("~mine:*", "+@all", "-@admin", "-@dangerous")
    await own.ask("ACL", "SETUSER", "app", "on", ">right", "resetkeys", *keys)
    where = f"127.0.0.1:{own.server.port}?prefix=mine:"
    with pytest.raises(BackendUnavailableError, match="refused the user or password") as caught:
        await Broadcaster(f"redis-stream://app:wrong@{where}").connect()
    assert "wrong" not in str(caught.value)
    async with (
        Broadcaster(f"redis-stream://app:right@{where}") as broadcaster,
        broadcaster.subscribe("room", history=1) as subscriber,
    ):
        await broadcaster.publish("room", "hello")
        assert await take(subscriber, 1) == ["hello"]


async def test_a_channel_that_is_no_stream(own: RedisStreamBroker) -> None:
    """Subscribing to it, or reading its log, fails; the others are not disturbed."""
    await own.ask("SET", "string", "not a stream")
    async with (
        own.broadcaster() as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        with pytest.raises(BackendError):
            async with broadcaster.subscribe(["room", "string"]):
                pass
        for after in ("1-1", None):
            with pytest.raises(BackendError):
                await broadcaster.channel("string").page(after=after)
        await broadcaster.publish("room", "hello")
        await reader.until("hello")
        assert broadcaster.health().reconnects == 0


async def test_a_channel_that_ceases_to_be_a_stream(own: RedisStreamBroker) -> None:
    """Its subscribers are ended with the reason; the others go on and miss nothing."""
    async with (
        own.broadcaster(publish_timeout=20) as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        async with broadcaster.subscribe("string") as subscriber:
            await own.ask("SET", "string", "not a stream")
            await broadcaster.publish("room", "wakes the reader")
            with pytest.raises(BackendError, match="wrong kind"):
                async with asyncio.timeout(20):
                    await subscriber.get()
        await until(lambda: broadcaster.health().state == "connected")
        await broadcaster.publish("room", "end")
        await reader.until("end")
    assert reader.messages == ["wakes the reader", "end"]
    assert reader.gaps == []
