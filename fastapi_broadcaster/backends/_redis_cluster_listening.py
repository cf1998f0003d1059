"""One generation of sharded pub/sub: a connection to each master that has channels of ours."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial

from fastapi_broadcaster.backends import _redis_pubsub as pubsub
from fastapi_broadcaster.backends._redis import Server
from fastapi_broadcaster.backends._redis_cluster import Cluster, slot_of
from fastapi_broadcaster.exceptions import (
    BackendError,
    BackendUnavailableError,
    ConnectionLostError,
)
from fastapi_broadcaster.messages import Gap, Message

logger = logging.getLogger("fastapi_broadcaster")
_PAUSE = 0.1  # seconds before what was lost is mended: is it one node, or all?
_LONGEST = 2.0  # seconds between attempts to mend it
_LOOK = 10.0  # seconds until the nodes are asked again who is a master, though nothing failed


class Listening:
    """A generation goes on while one of its connections does; it mends the others itself.

    `were_live` are the channels of ours that are not live at present.
    """

    def __init__(self, cluster: Cluster, were_live: set[str]) -> None:
        self._cluster = cluster
        self._were_live = were_live
        self._heard = pubsub.Heard()
        self._wanted: set[str] = set()
        self._live: dict[Server, set[str]] = {}
        self._connections: dict[Server, pubsub.Listening] = {}
        self._opening: defaultdict[Server, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._lost: list[pubsub.Listening] = []
        self._torn = asyncio.Event()
        self._closed = False
        self._mending = asyncio.create_task(self._mend(), name="broadcaster-redis-cluster")

    async def open(self) -> None:
        """Connect to a node, which tells when all of them are away. `ConnectionLostError`."""
        self._cluster.distrust()
        try:
            await self._cluster.refresh()
        except BackendError as error:
            raise ConnectionLostError(str(error)) from error
        for node in self._cluster.masters:
            with suppress(ConnectionLostError):
                await self._connection(node)
                return
        raise ConnectionLostError(f"{self._cluster}: no master is reachable")

    def batches(self) -> AsyncIterator[Sequence[Message | Gap]]:
        return self._heard.batches()

    # -- what the engine wants --------------------------------------------------------------

    async def subscribe(self, channels: Collection[str]) -> None:
        self._wanted.update(channels)
        await self._join(channels)

    async def unsubscribe(self, channels: Collection[str]) -> None:
        self._wanted.difference_update(channels)
        await self._leave(channels)
        await self._close_idle()

    # -- one command per slot ---------------------------------------------------------------

    async def _join(self, channels: Collection[str]) -> None:
        """Make live what is not. Whatever can be, is, also when others raise an error."""
        await self._cluster.fresh(channels)
        places: defaultdict[Server | None, list[str]] = defaultdict(list)
        for channel in channels:
            if not any(channel in live for live in self._live.values()):
                places[self._cluster.owner(channel)].append(channel)
        joining = (self._join_at(node, names) for node, names in places.items())
        _raise_gravest(await asyncio.gather(*joining, return_exceptions=True))

    async def _join_at(self, node: Server | None, channels: list[str]) -> None:
        if node is None:
            raise ConnectionLostError(f"{self._cluster}: no node has the slot of {channels[0]!r}")
        try:
            connection = await self._connection(node)
            await connection.send("SSUBSCRIBE", *_by_slot(channels))
        except ConnectionLostError:
            self._cluster.suspects.add(node)
            raise

    async def _leave(self, channels: Collection[str]) -> None:
        leaving = (
            self._connections[node].send("SUNSUBSCRIBE", *_by_slot(names))
            for node, live in self._live.items()
            if (names := live.intersection(channels))
        )
        _raise_gravest(await asyncio.gather(*leaving, return_exceptions=True))

    # -- the connections --------------------------------------------------------------------

    async def _connection(self, node: Server) -> pubsub.Listening:
        async with self._opening[node]:
            if node not in self._connections:
                connection = node.connection()
                await node.revive(connection)
                if self._closed:
                    await connection.disconnect(nowait=True)
                    raise ConnectionLostError(f"{self._cluster}: the connection was closed")
                self._live[node] = set()
                self._connections[node] = pubsub.Listening(
                    node,
                    connection,
                    self._heard,
                    live={"s": self._live[node]},
                    were_live={"s": self._were_live},
                    lost=partial(self._lose, node),
                    moved=self._moved,
                )
            return self._connections[node]

    def _lose(self, node: Server, error: ConnectionLostError) -> None:
        """A node is gone; with the last one the generation is over."""
        if node not in self._connections:
            return  # we closed it
        self._lost.append(self._connections.pop(node))
        self._were_live |= self._live.pop(node) & self._wanted
        self._cluster.suspects.add(node)
        self._torn.set()
        if not self._connections:
            self._heard.lose(error)
        else:
            logger.warning("%s: a node is lost (%s)", self._cluster, error)

    async def _close_idle(self) -> None:
        """Close what no channel needs; one stays, which tells when all nodes are away."""
        for node in list(self._live):
            if len(self._live) > 1 and not self._live.get(node, {node}):
                del self._live[node]
                await self._connections.pop(node).close()

    def _moved(self, channel: str) -> None:
        """The slot of a channel is another node's now."""
        self._were_live.add(channel)
        self._torn.set()

    # -- mending ----------------------------------------------------------------------------

    async def _mend(self) -> None:
        """Bring back what is not live, wherever its slot is now, as often as it takes."""
        pause = _PAUSE
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._torn.wait()
            await asyncio.sleep(pause)
            self._torn.clear()
            try:
                await self._cluster.refresh()
                await self._leave_former_owners()
                while self._lost:
                    await self._lost.pop().close()
                await self._leave(set[str]().union(*self._live.values()) - self._wanted)
                wanted = self._were_live & self._wanted
                await self._join(wanted)
                await self._leave(wanted - self._wanted)  # who left meanwhile
                await self._close_idle()
                pause = _PAUSE
            except (ConnectionLostError, BackendUnavailableError):
                pause = min(2 * pause, _LONGEST)
                self._torn.set()
            except Exception as error:  # refused: the engine finds out which, and tells them
                logger.warning("%s: what was lost cannot be mended (%s)", self._cluster, error)
                self._heard.lose(ConnectionLostError(str(error)))

    async def _leave_former_owners(self) -> None:
        """One that is cut off from the others does not say that it has lost a slot."""
        former = [
            channel
            for node, live in self._live.items()
            for channel in live
            if self._cluster.owner(channel) not in (node, None)
        ]
        self._were_live.update(former)
        await self._leave(former)

    async def close(self) -> None:
        """End all tasks and connections."""
        self._closed = True
        self._mending.cancel()
        connections = [*self._connections.values(), *self._lost]
        self._were_live.update(*(live & self._wanted for live in self._live.values()))
        self._connections.clear()
        self._live.clear()
        async with AsyncExitStack() as stack:  # also when whoever closes us is cancelled meanwhile
            for connection in connections:
                stack.push_async_callback(connection.close)
            await asyncio.wait([self._mending])


def _by_slot(channels: Iterable[str]) -> list[list[str]]:
    """Names in one command must have one slot."""
    slots: defaultdict[int, list[str]] = defaultdict(list)
    for channel in channels:
        slots[slot_of(channel)].append(channel)
    return list(slots.values())


def _raise_gravest(outcomes: Sequence[BaseException | None]) -> None:
    """Raise one of the errors: a refusal before a loss, which will be tried again."""
    if errors := [outcome for outcome in outcomes if outcome is not None]:
        raise min(errors, key=lambda error: isinstance(error, ConnectionLostError))
