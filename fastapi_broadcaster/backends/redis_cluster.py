"""`redis://...?cluster=true`: SPUBLISH and SSUBSCRIBE. No log and no patterns. Redis 7.0 or newer.

A channel belongs to a slot, and a slot to one master of the cluster: a lost node, or a slot that
moves, is a gap for the channels of it, and for no others.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress

from redis.asyncio import RedisCluster

from fastapi_broadcaster.backends._redis import Server
from fastapi_broadcaster.backends._redis_cluster import Cluster
from fastapi_broadcaster.backends._redis_cluster_listening import Listening
from fastapi_broadcaster.backends._redis_publishing import Publishing
from fastapi_broadcaster.backends.base import Backend, Outcome
from fastapi_broadcaster.exceptions import BackendUnavailableError, ConnectionLostError
from fastapi_broadcaster.messages import Cursor, Gap, Message

_PATIENCE = 2.0  # seconds for the masters to be reached, before going on without some of them


class RedisClusterBackend(Backend):
    """Sharded pub/sub: to each master one connection that listens, and one that publishes.

    `client=` takes the user's own `redis.asyncio.RedisCluster`, whose addresses, credentials and
    TLS are used; the connections are this backend's own, because it never sends anything twice.
    """

    def __init__(self, *, client: RedisCluster) -> None:
        self._setup(Cluster.of(client))

    @classmethod
    def of(cls, server: Server) -> "RedisClusterBackend":
        """Make one for a cluster of which a URL names a node.

        Raises `ValueError` for a database that no cluster has.
        """
        if server.database:
            raise ValueError(
                f"{server}?cluster=true: a Redis Cluster has no database {server.database}, "
                "only 0: leave it out of the URL"
            )
        backend = cls.__new__(cls)
        backend._setup(Cluster([server]))
        return backend

    def _setup(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._publishing: dict[Server, Publishing] = {}
        self._listening: Listening | None = None
        self._were_live: set[str] = set()

    def __str__(self) -> str:
        return str(self._cluster)

    async def connect(self) -> None:
        self._cluster.distrust()
        await self._cluster.refresh()
        await self._reach_masters()

    async def _reach_masters(self) -> None:
        """Let no publisher have to wait for a connection; who is away is met by them."""
        reaching = (self._publisher(node).reach() for node in self._cluster.masters)
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await asyncio.gather(*reaching, return_exceptions=True)

    def _publisher(self, node: Server) -> Publishing:
        return self._publishing.setdefault(node, Publishing(node, b"SPUBLISH"))

    async def disconnect(self) -> None:
        publishing, self._publishing = self._publishing, {}
        self._were_live.clear()
        for one in publishing.values():
            await one.close()

    # -- publishing -------------------------------------------------------------------------

    def lane(self, channel: str) -> Server | None:
        return self._cluster.owner(channel)

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        await self._cluster.fresh(message.channel for message in messages)
        outcomes: list[Outcome] = [None] * len(messages)
        batches: dict[Server, list[int]] = {}
        for at, message in enumerate(messages):
            try:
                batches.setdefault(self._target(message.channel), []).append(at)
            except ConnectionLostError as error:
                outcomes[at] = error
        sent = await asyncio.gather(
            *(
                self._publish_to(node, [messages[at] for at in batch])
                for node, batch in batches.items()
            )
        )
        for batch, results in zip(batches.values(), sent, strict=True):
            for at, outcome in zip(batch, results, strict=True):
                outcomes[at] = outcome
        lost = [outcome for outcome in outcomes if isinstance(outcome, ConnectionLostError)]
        if lost and len(lost) == len(outcomes):
            raise lost[0]
        return outcomes

    def _target(self, channel: str) -> Server:
        """The node to publish to; none while our own subscribers would miss what it accepts."""
        if channel in self._were_live:
            raise ConnectionLostError(f"{self}: {channel!r} is not live at present")
        if (owner := self._cluster.owner(channel)) is None:
            raise ConnectionLostError(f"{self}: no node has the slot of {channel!r}")
        return owner

    async def _publish_to(self, node: Server, messages: Sequence[Message]) -> Sequence[Outcome]:
        outcomes: Sequence[Outcome]
        try:
            outcomes = await self._publisher(node).publish(messages)
        except (ConnectionLostError, BackendUnavailableError) as error:
            outcomes = [error] * len(messages)
        if any(isinstance(one, ConnectionLostError | BackendUnavailableError) for one in outcomes):
            self._cluster.suspects.add(node)
        return outcomes

    # -- listening --------------------------------------------------------------------------

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, Cursor]:
        await self._generation().subscribe(channels)
        return {}

    async def unsubscribe(self, channels: Collection[str]) -> None:
        self._were_live.difference_update(channels)
        await self._generation().unsubscribe(channels)

    def _generation(self) -> Listening:
        if self._listening is None:
            raise ConnectionLostError(f"{self} is not connected")
        return self._listening

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        listening = Listening(self._cluster, self._were_live)
        try:
            await listening.open()
            await self._reach_masters()
            self._listening = listening
            yield ()
            async for batch in listening.batches():
                yield batch
        finally:
            self._listening = None
            await listening.close()
