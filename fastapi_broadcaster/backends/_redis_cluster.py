"""A Redis Cluster: which node owns which slot."""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import RedisCluster
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from fastapi_broadcaster.backends._redis import Server, about_server, exchange, options_of, pack
from fastapi_broadcaster.exceptions import (
    BackendError,
    BackendUnavailableError,
    UnsupportedError,
)

_EPOCH = "cluster_current_epoch"  # grows with every failover, and every slot that moves
_PATIENCE = 2.0  # seconds for a node to tell of the others, when another one can be asked

Address = tuple[str, int]


def slot_of(channel: str) -> int:
    """The slot of a channel; what stands in `{}` in its name decides alone."""
    return key_slot(channel.encode())


class Cluster:
    """What is known of a cluster, from whichever of its nodes answers.

    `remap` turns an address that the nodes tell into one that can be reached from here.
    """

    def __init__(
        self, seeds: Sequence[Server], remap: Callable[[Address], Address] | None = None
    ) -> None:
        self._seeds = seeds
        self._remap = remap
        self._servers: dict[Address, Server] = {}  # one for each address, for ever
        self._nodes: set[Server] = set()
        self._owners: list[Server | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._epoch = 0
        self.masters: set[Server] = set()
        self.suspects: set[Server | None] = {None}  # failed since the nodes were asked

    @classmethod
    def of(cls, client: RedisCluster) -> "Cluster":
        """The cluster of the user's own client, with its addresses, credentials and TLS."""
        manager = client.nodes_manager
        seeds = [
            Server(node.connection_class, options_of(node.connection_kwargs))
            for node in manager.startup_nodes.values()
        ]
        return cls(seeds, manager.address_remap)

    def __str__(self) -> str:
        return f"{self._seeds[0]}?cluster=true"

    def owner(self, channel: str) -> Server | None:
        """The master that has a channel's slot, if any is known."""
        return self._owners[slot_of(channel)]

    def distrust(self) -> None:
        """Believe whatever the nodes tell next: the cluster may have been made anew."""
        self._epoch = 0

    async def fresh(self, channels: Iterable[str]) -> None:
        """`refresh`, if that is possible, unless it is known for sure who owns their slots."""
        owners = {self._owners[slot_of(channel)] for channel in channels}
        if not owners.isdisjoint(self.suspects):
            with suppress(BackendError):
                await self.refresh()

    async def refresh(self) -> None:
        """Ask the nodes, in random order, until one tells who owns the slots.

        A node that was cut off from the others tells of the past, and is not believed. Raises
        `BackendUnavailableError`, or `UnsupportedError` for a server that is no cluster.
        """
        known = {str(server): server for server in (*self._seeds, *self._nodes)}
        failure: BackendError | None = None
        for server in random.sample(list(known.values()), len(known)):
            try:
                async with asyncio.timeout(_PATIENCE if len(known) > 1 else None):
                    epoch, slots = await self._ask(server)
            except BackendError as error:
                failure = error
            except TimeoutError:
                failure = BackendUnavailableError(f"{server} does not answer")
            else:
                if epoch >= self._epoch:
                    self._epoch = epoch
                    self.suspects = {None}
                    return self._learn(server, slots)
                failure = BackendUnavailableError(f"{server} is cut off from its cluster")
        raise failure or BackendUnavailableError(f"{self} has no node")

    async def _ask(self, server: Server) -> tuple[int, Any]:
        """The epoch of a node's knowledge, and who owns which slots."""
        connection = server.connection()
        commands = [pack(b"HELLO"), pack(b"CLUSTER", b"INFO"), pack(b"CLUSTER", b"SLOTS")]
        with server.errors():
            await server.open(connection)
            try:
                hello, info, slots = await exchange(connection, commands, server.timeout)
            finally:
                await connection.disconnect(nowait=True)
            if about_server(server, hello).get(b"mode") != b"cluster":
                raise UnsupportedError(f"{server} is no Redis Cluster: leave ?cluster=true out")
            for reply in (info, slots):
                if isinstance(reply, Exception):
                    raise reply
        epoch = dict(line.split(":", 1) for line in info.decode().split())[_EPOCH]
        return int(epoch), slots

    def _learn(self, teller: Server, slots: Any) -> None:
        nodes: set[Server] = set()
        owners: list[Server | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, *members in slots:
            shard = [self._member(teller, host, port) for host, port, *_ in members]
            nodes.update(shard)  # the master, then its replicas
            owners[first : last + 1] = [shard[0]] * (last + 1 - first)
        self._nodes, self._owners = nodes, owners
        self.masters = {owner for owner in owners if owner is not None}

    def _member(self, teller: Server, host: bytes | None, port: int) -> Server:
        """A node; one that does not know its own host tells of itself."""
        address = (host.decode() if host and host != b"?" else teller.host, port)
        if self._remap is not None:
            address = self._remap(address)
        if address not in self._servers:
            self._servers[address] = teller.at(*address)
        return self._servers[address]
