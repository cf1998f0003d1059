"""What happens to one node, or to one slot, is told to its own channels only."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import Redis as RedisClient
from redis.crc import key_slot

from fastapi_broadcaster import BackendUnavailableError, Broadcaster, Gap
from fastapi_broadcaster.backends._redis import Server
from fastapi_broadcaster.backends._redis_cluster import Cluster
from servers import RedisCluster
from servers.redis_cluster import RedisNode
from tests.brokers import QUICK
from tests.conformance.test_promise_3_outages import Publishing, assert_only_lost_in_gaps
from tests.conformance.tools import PATIENCE, Reader, publish_all, reading, until
from tests.proxy import HOST
from tests.redis_cluster.broker import RedisClusterBroker

FAST = {"cluster-node-timeout": "1500", "repl-diskless-sync-delay": "0"}
OTHERS = ["b", "c"]  # on the first and the second master; "room" is on the third


@pytest.fixture
def replicated() -> Iterator[RedisCluster]:
    """A master that is only slow for a moment keeps its slots, but for the one of "room"."""
    cluster = RedisCluster(replicas=True, options=FAST)
    for replica in cluster.replicas:
        if replica.master is not owner_of(cluster, "room"):
            replica.options = {**replica.options, "cluster-replica-no-failover": "yes"}
    with cluster:
        yield cluster


async def ask(node: RedisNode, *words: str) -> Any:
    async with RedisClient(host=HOST, port=node.port, socket_timeout=60) as client:
        return await client.execute_command(*words)


def owner_of(cluster: RedisCluster, channel: str) -> RedisNode:
    return cluster.master_of(key_slot(channel.encode()))


async def move(slot: str, source: RedisNode, target: RedisNode, *others: RedisNode) -> None:
    """Give a slot away, and wait until all of them have heard of the new epoch."""
    await ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
    nodes = (target, source, *others)
    for node in nodes:
        await ask(node, "CLUSTER", "SETSLOT", slot, "NODE", target.id)

    async def heard() -> bool:
        states = [await ask(node, "CLUSTER", "INFO") for node in nodes]
        epochs = {re.findall(rb"current_epoch:(\d+)", state)[0] for state in states}
        return len(epochs) == 1 and epochs != {b"3"}

    await until(heard)


async def replicating(cluster: RedisCluster) -> None:
    """Wait until replicas may be elected: they have the data, and the masters hear each other."""

    async def ready() -> bool:
        links = [await ask(node, "INFO", "replication") for node in cluster.replicas]
        states = [await ask(node, "CLUSTER", "INFO") for node in cluster.nodes]
        return all(link.get("master_link_status") == "up" for link in links) and all(
            b"cluster_state:ok" in state for state in states
        )

    await until(ready)


async def undisturbed(broadcaster: Broadcaster, reader: Reader, last: str) -> None:
    """Nothing is missing in the channels of the other nodes."""
    for name in OTHERS:
        await broadcaster.publish(name, f"{last} {name}")
        await reader.until(f"{last} {name}")
    assert reader.gaps == []
    assert broadcaster.health().reconnects == 0


async def test_a_lost_master(own: RedisClusterBroker) -> None:
    node = owner_of(own.cluster, "room")
    async with (
        own.broadcaster(publish_timeout=30) as broadcaster,
        reading(broadcaster.subscribe("room")) as room,
        reading(broadcaster.subscribe(OTHERS)) as others,
    ):
        await broadcaster.publish("room", "before")
        await room.until("before")
        await asyncio.to_thread(node.kill)
        publishing = None
        for turn in range(20):
            await undisturbed(broadcaster, others, f"away {turn}")
        publishing = asyncio.create_task(broadcaster.publish("room", "waits"))
        await asyncio.sleep(0.3)
        assert not publishing.done()
        await asyncio.to_thread(node.start)
        await publishing
        await room.until("waits")
        await undisturbed(broadcaster, others, "back")
    assert room.messages == ["before", "waits"]
    assert room.gaps == [Gap("room", "reconnected")]


async def test_a_batch_for_a_lost_master_and_others(own: RedisClusterBroker) -> None:
    """What is for the others leaves; of the rest the callers are told that nothing has."""
    node = owner_of(own.cluster, "room")
    async with (
        own.broadcaster(publish_timeout=1.0) as broadcaster,
        reading(broadcaster.subscribe(OTHERS)) as others,
    ):
        await asyncio.to_thread(node.kill)
        names = ["b", "room", "c", "room", "b"]
        outcomes = await asyncio.gather(
            *(broadcaster.publish(name, str(at)) for at, name in enumerate(names)),
            return_exceptions=True,
        )
        for name, outcome in zip(names, outcomes, strict=True):
            if name == "room":
                assert isinstance(outcome, BackendUnavailableError)
                assert not outcome.maybe_published
            else:
                assert not isinstance(outcome, BaseException)
        await until(lambda: len(others.messages) == 3)
    assert sorted(others.messages) == ["0", "2", "4"]


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_who_publishes_to_others_does_not_wait(own: RedisClusterBroker, fault: str) -> None:
    node = owner_of(own.cluster, "room")
    url = f"{own.url}&socket_timeout=60"
    async with (
        Broadcaster(url, backoff=QUICK, publish_timeout=60) as broadcaster,
        reading(broadcaster.subscribe(OTHERS)) as others,
    ):
        await broadcaster.publish("room", "before")
        await asyncio.to_thread(getattr(node, fault))
        stuck = [asyncio.create_task(broadcaster.publish("room", "x")) for _ in range(3)]
        await asyncio.sleep(0.05)
        for turn in range(20):
            await asyncio.gather(*(broadcaster.publish(name, str(turn)) for name in OTHERS))
        assert not any(task.done() for task in stuck)
        await until(lambda: len(others.messages) == 40)
        for task in stuck:
            task.cancel()
        await asyncio.wait(stuck)
        await asyncio.to_thread(node.resume)


async def test_a_newcomer_while_a_master_is_lost(own: RedisClusterBroker) -> None:
    node = owner_of(own.cluster, "room")
    async with (
        own.broadcaster(subscribe_timeout=30) as broadcaster,
        reading(broadcaster.subscribe(OTHERS)) as others,
    ):
        await asyncio.to_thread(node.kill)
        await undisturbed(broadcaster, others, "away")
        waiting = broadcaster.subscribe("room")
        entering = asyncio.create_task(waiting.__aenter__())
        await asyncio.sleep(0.3)
        assert not entering.done()
        await asyncio.to_thread(node.start)
        newcomer = await entering
        await broadcaster.publish("room", "hello")
        assert (await newcomer.get()).message == "hello"
        assert newcomer.gaps == 0
        await waiting.__aexit__(None, None, None)
        await undisturbed(broadcaster, others, "back")


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_a_failover(replicated: RedisCluster, fault: str) -> None:
    node = owner_of(replicated, "room")
    replica = replicated.replicas[replicated.masters.index(node)]
    await replicating(replicated)
    async with (
        Broadcaster(replicated.url, backoff=QUICK, publish_timeout=40) as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
        reading(broadcaster.subscribe(OTHERS)) as others,
    ):
        publishing = Publishing(broadcaster)
        await publishing.more()
        await asyncio.to_thread(getattr(node, fault))
        await until(lambda: reader.gaps)
        await publishing.more()
        await publishing.stop()
        assert (await ask(replica, "ROLE"))[0] == b"master"
        if fault == "kill":  # a frozen one would hand on what had reached it, much too late
            await asyncio.to_thread(node.start)
        await publish_all(broadcaster, "room", ["end"])
        await reader.until("end")
        await undisturbed(broadcaster, others, "end")
    assert reader.gaps == [Gap("room", "reconnected")]
    assert_only_lost_in_gaps(reader, publishing.acknowledged)


async def test_a_failover_by_hand(replicated: RedisCluster) -> None:
    node = owner_of(replicated, "room")
    replica = replicated.replicas[replicated.masters.index(node)]
    await replicating(replicated)
    async with (
        Broadcaster(replicated.url, backoff=QUICK, publish_timeout=40) as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
        reading(broadcaster.subscribe(OTHERS)) as others,
    ):
        publishing = Publishing(broadcaster)
        await publishing.more()
        await ask(replica, "CLUSTER", "FAILOVER")
        await until(lambda: reader.gaps)
        await publishing.more()
        await publishing.stop()
        await publish_all(broadcaster, "room", ["end"])
        await reader.until("end")
        await undisturbed(broadcaster, others, "end")
    assert_only_lost_in_gaps(reader, publishing.acknowledged)


@pytest.mark.parametrize("publisher", ["own", "other"])
async def test_a_slot_that_moves(own: RedisClusterBroker, publisher: str) -> None:
    """Its channel is subscribed again where it is now; acknowledged and not heard: in a gap."""
    source, target = owner_of(own.cluster, "room"), own.cluster.masters[0]
    slot = str(key_slot(b"room"))
    async with (
        own.broadcaster(publish_timeout=30) as broadcaster,
        own.broadcaster(publish_timeout=30) as other,
        reading(broadcaster.subscribe("room")) as reader,
        reading(broadcaster.subscribe([*OTHERS, "a"])) as others,  # "a" stays on the same node
    ):
        publishing = Publishing(broadcaster if publisher == "own" else other)
        await publishing.more()
        await ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        await ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        await publishing.more()
        assert reader.gaps == []
        for node in (target, source, own.cluster.masters[1]):
            await ask(node, "CLUSTER", "SETSLOT", slot, "NODE", target.id)
        await until(lambda: reader.gaps)
        await publishing.more()
        await publishing.stop()
        await publish_all(broadcaster, "room", ["end"])
        await reader.until("end")
        await publish_all(broadcaster, "a", ["a"])
        await undisturbed(broadcaster, others, "end")
        assert await ask(target, "PUBSUB", "SHARDCHANNELS", "room") == [b"room"]
        assert await ask(source, "PUBSUB", "SHARDCHANNELS") == [b"a"]
    assert reader.gaps == [Gap("room", "reconnected")]
    assert_only_lost_in_gaps(reader, publishing.acknowledged)
    assert broadcaster.health().reconnects == 0


async def test_a_batch_of_which_a_part_has_moved(own: RedisClusterBroker) -> None:
    """That part is sent again, to where it belongs; the other is not."""
    source, target = owner_of(own.cluster, "room"), own.cluster.masters[0]
    names = ["a", "room", "a", "room"]
    async with (
        own.broadcaster(publish_timeout=30) as broadcaster,
        own.broadcaster(subscribe_timeout=30) as other,
        reading(other.subscribe("a")) as stays,
    ):
        await move(str(key_slot(b"room")), source, target, own.cluster.masters[1])
        async with asyncio.timeout(PATIENCE), other.subscribe("room") as moves:
            await asyncio.gather(*(broadcaster.publish(name, name) for name in names))
            assert [(await moves.get()).message for _ in range(2)] == ["room", "room"]
        await broadcaster.publish("a", "end")
        await stays.until("end")
    assert stays.messages == ["a", "a", "end"]


async def test_leaving_while_its_master_is_lost(own: RedisClusterBroker) -> None:
    """Nobody hears it any more when the master is back."""
    node = owner_of(own.cluster, "room")
    async with (
        own.broadcaster(publish_timeout=30, linger=0.0) as broadcaster,
        reading(broadcaster.subscribe(OTHERS)) as others,
    ):
        async with broadcaster.subscribe("room"):
            await asyncio.to_thread(node.kill)
            await undisturbed(broadcaster, others, "away")
        await asyncio.to_thread(node.start)
        await broadcaster.publish("room", "nobody")
        await undisturbed(broadcaster, others, "back")
        await asyncio.sleep(0.5)
        assert await own.subscriptions() == set(OTHERS)


async def test_a_node_that_was_cut_off_is_not_believed(own: RedisClusterBroker) -> None:
    """It tells of a past in which a slot was elsewhere."""
    past, target, source = own.cluster.nodes
    cluster = Cluster([Server.from_url(past.url)])
    await until(lambda: _refreshed(cluster))
    assert cluster.owner("room") is not cluster.owner("c")
    await asyncio.to_thread(past.kill)
    await move(str(key_slot(b"room")), source, target)
    await until(lambda: _moved(cluster))
    for node in (target, source):
        await asyncio.to_thread(node.kill)
    await asyncio.to_thread(past.start)
    for _ in range(5):
        with pytest.raises(BackendUnavailableError):
            await cluster.refresh()
    assert cluster.owner("room") is cluster.owner("c")
    cluster.distrust()
    await until(lambda: _refreshed(cluster))
    assert cluster.owner("room") is not cluster.owner("c")


async def test_a_former_owner_that_says_nothing(
    own: RedisClusterBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off from the others, it keeps a slot that is not its own any more, and its hearers."""
    monkeypatch.setattr("fastapi_broadcaster.backends._redis_cluster_listening._LOOK", 0.2)
    third, target, source = own.cluster.nodes
    async with (
        own.broadcaster(publish_timeout=30) as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
        reading(broadcaster.subscribe([*OTHERS, "a"])) as others,
    ):
        slot = str(key_slot(b"room"))
        for node in (third, target):
            await ask(source, "CLUSTER", "FORGET", node.id)
        await ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        for node in (target, third):
            await ask(node, "CLUSTER", "SETSLOT", slot, "NODE", target.id)
        await until(lambda: reader.gaps)
        assert await ask(source, "PUBSUB", "SHARDCHANNELS") == [b"a"]
        await broadcaster.publish("room", "end")
        await reader.until("end")
        await broadcaster.publish("a", "a")
        await undisturbed(broadcaster, others, "end")
    assert reader.gaps == [Gap("room", "reconnected")]


async def _refreshed(cluster: Cluster) -> bool:
    """Not while all nodes are slow."""
    with suppress(BackendUnavailableError):
        await cluster.refresh()
        return True
    return False


async def _moved(cluster: Cluster) -> bool:
    return await _refreshed(cluster) and cluster.owner("room") is cluster.owner("c")
