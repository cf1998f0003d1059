"""URLs, credentials, TLS, and servers that cannot be used: each with the exact error."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
from redis.asyncio import RedisCluster as ClusterClient

from fastapi_broadcaster import (
    BackendError,
    BackendUnavailableError,
    Broadcaster,
    UnsupportedError,
)
from fastapi_broadcaster.backends import create_backend
from fastapi_broadcaster.backends.redis import RedisBackend
from fastapi_broadcaster.backends.redis_cluster import RedisClusterBackend
from servers import Redis, RedisCluster
from servers.certificates import Certificates
from tests.conformance.tools import take
from tests.redis_cluster.broker import RedisClusterBroker

NAMES = ["a", "b", "c", "{b}.also", "ü", "room"]  # on all three nodes


async def talk(broadcaster: Broadcaster) -> None:
    """Through each node."""
    async with broadcaster, broadcaster.subscribe(NAMES) as subscriber:
        for name in NAMES:
            await broadcaster.publish(name, name)
        assert sorted(await take(subscriber, len(NAMES))) == sorted(NAMES)


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_the_option_chooses_the_backend(scheme: str) -> None:
    for text, kind in [
        ("true", RedisClusterBackend),
        ("1", RedisClusterBackend),
        ("false", RedisBackend),
    ]:
        backend = create_backend(
            f"{scheme}://user:secret@127.0.0.1:1?socket_timeout=2&cluster={text}"
        )
        assert type(backend) is kind
        assert "secret" not in str(backend)
        assert str(backend).startswith(f"{scheme}://127.0.0.1:1")
    with pytest.raises(ValueError, match="nonsense"):
        create_backend(f"{scheme}://user:secret@127.0.0.1:1?cluster=true&nonsense=1")


@pytest.mark.parametrize("where", ["/3?cluster=true", "?cluster=true&db=3"])
def test_a_database_that_a_cluster_does_not_have(where: str) -> None:
    """Told before it connects."""
    with pytest.raises(ValueError, match="has no database 3, only 0: leave it out") as caught:
        Broadcaster(f"redis://user:secret@127.0.0.1:1{where}")
    assert "secret" not in str(caught.value)
    assert Broadcaster("redis://127.0.0.1:1/0?cluster=true")


def test_what_it_cannot_do() -> None:
    """Told before it connects."""
    broadcaster = Broadcaster("redis://127.0.0.1:1?cluster=true")
    assert not broadcaster.has_history
    with pytest.raises(UnsupportedError, match="cluster=true cannot subscribe to patterns"):
        broadcaster.subscribe(pattern="rooms.*")
    with pytest.raises(UnsupportedError, match="redis-stream://"):
        broadcaster.subscribe("room", history=1)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_both_protocols(shared: RedisClusterBroker, protocol: int) -> None:
    await talk(Broadcaster(f"{shared.url}&protocol={protocol}"))


async def test_the_users_own_client(shared: RedisClusterBroker) -> None:
    """Its nodes are asked; its connections, retries and decoding are not used."""
    nodes = shared.cluster.nodes
    client = ClusterClient(host="127.0.0.1", port=nodes[1].port, decode_responses=True)
    await talk(Broadcaster(backend=RedisClusterBackend(client=client)))


async def test_redis_cli(shared: RedisClusterBroker) -> None:
    """It publishes and hears the plain message."""
    async with shared.broadcaster() as broadcaster, broadcaster.subscribe(NAMES) as subscriber:
        port = str(shared.cluster.nodes[0].port)
        for name in NAMES:
            command = ["redis-cli", "-c", "-p", port, "spublish", name, f"to {name}"]
            await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
            assert await take(subscriber, 1) == [f"to {name}"]


async def test_many_channels(shared: RedisClusterBroker) -> None:
    names = [f"many.{number}" for number in range(3_000)]
    async with (
        shared.broadcaster(subscribe_timeout=60, publish_timeout=60) as broadcaster,
        broadcaster.subscribe(names) as subscriber,
    ):
        await asyncio.gather(*(broadcaster.publish(name, name) for name in names[::10]))
        assert sorted(await take(subscriber, 300)) == sorted(names[::10])


async def test_a_server_that_is_no_cluster() -> None:
    with Redis.private() as server:
        broadcaster = Broadcaster(f"{server.url}?cluster=true")
        with pytest.raises(UnsupportedError, match=r"no Redis Cluster.*leave \?cluster=true out"):
            await broadcaster.connect()


async def test_a_node_as_if_it_were_alone(shared: RedisClusterBroker) -> None:
    """Plain pub/sub goes through the whole cluster; streams refuse it."""
    node = shared.cluster.nodes[0]
    await talk(Broadcaster(node.url))
    with pytest.raises(UnsupportedError, match="Redis Cluster"):
        await Broadcaster(node.url.replace("redis:", "redis-stream:")).connect()


async def test_nobody_there() -> None:
    broadcaster = Broadcaster("redis://user:secret@127.0.0.1:1?cluster=true")
    with pytest.raises(BackendUnavailableError, match=r"127\.0\.0\.1:1 is not reachable") as caught:
        await broadcaster.connect()
    assert "secret" not in str(caught.value)


async def test_users_and_passwords(own: RedisClusterBroker) -> None:
    rights = (
        "resetchannels",
        "&mine.*",
        "-@all",
        "+@pubsub",
        "+@connection",
        "+cluster|slots",
        "+cluster|info",
    )
    await own.ask("ACL", "SETUSER", "app", "on", ">right", *rights)
    where = own.url.partition("://")[2]
    for credentials in ("app:wrong", "nobody:right"):
        with pytest.raises(BackendUnavailableError, match="refused the user or password") as caught:
            await Broadcaster(f"redis://{credentials}@{where}").connect()
        assert credentials.partition(":")[2] not in str(caught.value)
    async with (
        Broadcaster(f"redis://app:right@{where}") as broadcaster,
        broadcaster.subscribe(["mine.a", "mine.b", "mine.c"]) as subscriber,
    ):
        with pytest.raises(BackendError, match="permissions"):
            async with broadcaster.subscribe("theirs"):
                pass
        with pytest.raises(BackendError, match="permissions"):
            await broadcaster.publish("theirs", "no")
        for name in "abc":
            await broadcaster.publish(f"mine.{name}", name)
        assert sorted(await take(subscriber, 3)) == ["a", "b", "c"]
        assert broadcaster.health().reconnects == 0


async def test_tls(tmp_path: Path) -> None:
    """To every node, also to those that the first one tells of."""
    certificates = Certificates.make(tmp_path)
    with RedisCluster(certificates=certificates) as cluster:
        assert cluster.url.startswith("rediss://")
        await talk(Broadcaster(f"{cluster.url}&ssl_ca_certs={certificates.ca}"))
        for query in ("", f"&ssl_ca_certs={certificates.other_ca}"):
            with pytest.raises(BackendUnavailableError, match="certificate verify failed"):
                await Broadcaster(f"{cluster.url}{query}").connect()
