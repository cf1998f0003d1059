"""What went wrong with a real Redis: cancellations, clients of all kinds, leaks."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator, Sequence

import pytest
from redis.asyncio import Redis as RedisClient
from redis.asyncio.sentinel import Sentinel as SentinelClient
from redis.credentials import CredentialProvider

from fastapi_broadcaster import BackendUnavailableError, Broadcaster
from fastapi_broadcaster.backends import create_backend
from fastapi_broadcaster.backends.redis import RedisBackend
from servers import Redis
from tests.brokers import RedisBroker
from tests.conformance.tools import PATIENCE, take, until


@pytest.fixture(scope="module")
def broker() -> Iterator[RedisBroker]:
    """A server that is not broken here."""
    with RedisBroker() as broker:
        yield broker


async def nothing_is_left(broker: RedisBroker) -> None:
    """Wait until nobody is connected but who asks here."""

    async def alone() -> bool:
        return await connections(broker) == 1

    await until(alone)


async def connections(broker: RedisBroker) -> int:
    return len((await broker.ask("CLIENT", "LIST")).splitlines())


async def test_a_cancelled_publisher_ends(broker: RedisBroker) -> None:
    """At whatever point of `publish` the cancellation comes, it is not swallowed."""
    async with broker.broadcaster() as broadcaster:

        async def publish_for_ever() -> None:
            while True:
                await broadcaster.publish("c", "x")

        for turns in range(150):
            publishing = asyncio.create_task(publish_for_ever())
            for _ in range(turns):
                await asyncio.sleep(0)
            publishing.cancel()
            done, _ = await asyncio.wait([publishing], timeout=PATIENCE)
            while not publishing.done():
                publishing.cancel()
                await asyncio.sleep(0.001)
            assert done, f"cancelled {turns} turns of the loop after its start, it went on"


class Sentinel(Redis):
    """Watches over one Redis, under the name `mymaster`."""

    def __init__(self, name: str, port: int) -> None:
        super().__init__(name, port)
        self.master = 0

    def prepare(self) -> None:
        (self.data / "sentinel.conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {self.master} 1"
        )

    def command(self) -> Sequence[str]:
        return [self.program, str(self.data / "sentinel.conf"), "--sentinel"]


async def test_the_client_of_a_sentinel_is_kept(broker: RedisBroker) -> None:
    """Nobody but the backend holds it."""
    sentinel = Sentinel.private()
    sentinel.master = broker.server.port
    with sentinel:
        finder = SentinelClient([("127.0.0.1", sentinel.port)])
        await until(lambda: finder.discover_master("mymaster"))
        backend = RedisBackend(client=finder.master_for("mymaster"))
        gc.collect()
        async with (
            Broadcaster(backend=backend) as broadcaster,
            broadcaster.subscribe("c") as subscriber,
        ):
            await broadcaster.publish("c", "x")
            assert await take(subscriber, 1) == ["x"]
        assert "mymaster" in str(backend)
        for client in finder.sentinels:
            await client.aclose()


async def test_a_clients_own_encoding_is_not_ours(broker: RedisBroker) -> None:
    """Names are UTF-8 in Redis, else nobody finds the other."""
    client = RedisClient.from_url(broker.url, encoding="latin-1", decode_responses=True)
    async with (
        Broadcaster(backend=RedisBackend(client=client), subscribe_timeout=20) as broadcaster,
        broker.broadcaster() as other,
        broadcaster.subscribe("café") as subscriber,
        broadcaster.subscribe("plain") as plain,
    ):
        for name in ("café", "plain"):
            await other.publish(name, "ü")
        assert await take(subscriber, 1) == ["ü"]
        assert await take(plain, 1) == ["ü"]


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_user_who_may_not_ping_is_not_lost(
    broker: RedisBroker, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal is an answer too: the server is there."""
    monkeypatch.setattr("fastapi_broadcaster.backends._redis_pubsub._QUIET", 1.0)
    may = ("+publish", "+subscribe", "+unsubscribe", "+hello", "+client")
    await broker.ask("ACL", "SETUSER", "app", "on", ">pw", "&*", "-@all", *may)
    await broker.ask("CONFIG", "RESETSTAT")

    async def refused_pings() -> int:
        stats = await broker.ask("INFO", "commandstats")
        return stats.get("cmdstat_ping", {}).get("rejected_calls", 0)

    async def two_pings() -> bool:
        return await refused_pings() >= 2

    url = f"redis://app:pw@127.0.0.1:{broker.server.port}?protocol={protocol}"
    async with Broadcaster(url) as broadcaster, broadcaster.subscribe("c") as subscriber:
        await until(two_pings)  # the first one has been answered in time
        async with broadcaster.subscribe("another"):
            await broadcaster.publish("c", "x")
            assert await take(subscriber, 1) == ["x"]
        assert broadcaster.health().reconnects == 0


async def test_a_frozen_server_is_given_up_whatever_the_client_allows() -> None:
    with RedisBroker() as broker:
        client = RedisClient.from_url(broker.url, socket_timeout=None, socket_connect_timeout=None)
        async with Broadcaster(backend=RedisBackend(client=client)) as broadcaster:
            await broadcaster.publish("c", "x")
            await broker.pause()
            begun = time.monotonic()
            try:
                with pytest.raises(BackendUnavailableError) as raised:
                    async with asyncio.timeout(PATIENCE):
                        await broadcaster.publish("c", "y")
            finally:
                await broker.resume()
            assert raised.value.maybe_published
            assert time.monotonic() - begun < 15


class Vault(CredentialProvider):
    """Gives out a password once, and then has nothing to say."""

    def __init__(self) -> None:
        self.asked = 0

    async def get_credentials_async(self) -> tuple[str, str]:
        self.asked += 1
        if self.asked > 1:
            await asyncio.Event().wait()
        return "default", "whatever"


async def test_a_connection_given_up_in_the_handshake_is_closed(broker: RedisBroker) -> None:
    """It is the listening one, which nobody knows yet."""
    vault = Vault()
    client = RedisClient.from_url(broker.url, credential_provider=vault)
    broadcaster = Broadcaster(backend=RedisBackend(client=client), connect_timeout=3)
    with pytest.raises(BackendUnavailableError) as raised:
        await broadcaster.connect()
    assert vault.asked == 2
    await nothing_is_left(broker)
    del raised
    gc.collect()  # whatever was left open complains, which is an error


async def test_disconnect_leaves_nothing_though_it_is_cancelled(broker: RedisBroker) -> None:
    for turns in range(4):
        broadcaster = broker.broadcaster()
        await broadcaster.connect()
        assert await connections(broker) > 1
        leaving = asyncio.create_task(broadcaster.disconnect())
        for _ in range(turns):
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        await broadcaster.disconnect()
        await nothing_is_left(broker)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis-stream", "rediss-stream"])
@pytest.mark.parametrize(
    "rest",
    [
        ":12/zebra@host:6379",
        ":zebra/pass@host:6379",
        "user:zebra#pass@host",
        "user:12#zebra@host",
        "user:12?zebra=1@host",
        ":q[zebra]@host",
        "host:zebra",
        "user:zebra@host:port",
        "user:zebra@host?nonsense=1",
        "host?socket_timeout=zebra",
    ],
)
def test_what_may_be_a_password_is_not_shown(scheme: str, rest: str) -> None:
    """Also not the part of it that was taken for something else."""
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # it must not match too much
        create_backend(f"{scheme}://{rest}")
    error: BaseException | None = raised.value
    while error is not None:
        assert "zebra" not in f"{error!r} {error}"
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("told", ["maybe", ""])
def test_what_is_neither_a_cluster_nor_none_is_refused(told: str) -> None:
    with pytest.raises(ValueError, match="cluster= in a URL is true or false"):
        Broadcaster(f"redis://127.0.0.1?cluster={told}")


@pytest.mark.parametrize("rest", ["", "-stream", "?cluster=true"])
async def test_what_is_to_be_done_is_said(rest: str) -> None:
    """Of TLS at a port without it, and of a password that is missing, not wrong."""
    scheme, _, option = rest.partition("?")
    with Redis.private() as server:
        where = f"127.0.0.1:{server.port}?{option}"
        in_vain = f"{where}&socket_connect_timeout=0.5"  # whatever the port speaks, it is silent
        with pytest.raises(
            BackendUnavailableError, match=r"no answer in TLS.*begins with redis, not"
        ):
            await Broadcaster(f"rediss{scheme}://{in_vain}").connect()
        async with RedisClient(port=server.port) as client:
            await client.config_set("requirepass", "secret")
        for user, told in [
            ("", "wants a password, and none was given.*USER:PASSWORD@"),
            (":wrong@", "refused the user or password"),
        ]:
            with pytest.raises(BackendUnavailableError, match=told):
                await Broadcaster(f"redis{scheme}://{user}{where}").connect()
