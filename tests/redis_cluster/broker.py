"""A Redis Cluster of three masters; whatever happens to it happens to all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

from redis.asyncio import Redis as RedisClient
from redis.asyncio import RedisCluster as ClusterClient

from fastapi_broadcaster import Broadcaster
from fastapi_broadcaster.backends.redis_cluster import RedisClusterBackend
from servers import RedisCluster
from tests.brokers import QUICK, Broker
from tests.proxy import HOST, Proxy


class RedisClusterBroker(Broker):
    """Three masters without replicas."""

    def __init__(self) -> None:
        self.cluster = RedisCluster()
        self.url = self.cluster.url

    def __enter__(self) -> Self:
        self.cluster.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cluster.__exit__(None, None, None)

    def broadcaster(self, *, log_size: int | None = None, **options: Any) -> Broadcaster:
        return Broadcaster(self.url, **{"backoff": QUICK, **options})

    @asynccontextmanager
    async def losing_reply(self, to: bytes) -> AsyncIterator[Broadcaster]:
        """Every node is reached through a proxy."""
        async with AsyncExitStack() as stack:
            proxies = [Proxy(node.port, lose_reply_to=to) for node in self.cluster.nodes]
            ports = {
                proxy.target: (await stack.enter_async_context(proxy)).port for proxy in proxies
            }
            first = ports[self.cluster.nodes[0].port]
            client = ClusterClient(
                host=HOST, port=first, address_remap=lambda address: (HOST, ports[address[1]])
            )
            backend = RedisClusterBackend(client=client)
            yield await stack.enter_async_context(Broadcaster(backend=backend, backoff=QUICK))

    async def kill(self) -> None:
        await asyncio.to_thread(self.cluster.kill)

    async def restart(self) -> None:
        await asyncio.to_thread(self.cluster.start)

    async def pause(self) -> None:
        self.cluster.pause()

    async def resume(self) -> None:
        self.cluster.resume()

    async def drop_clients(self) -> None:
        """At all nodes at the same time."""
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(_client(node.port)) for node in self.cluster.nodes
            ]
            await asyncio.gather(
                *(client.execute_command("CLIENT", "KILL", "SKIPME", "yes") for client in clients)
            )

    async def wipe(self) -> None:
        await self.ask("FLUSHALL")

    async def refuse_all_but(self, prefix: str) -> None:
        await self.ask("ACL", "SETUSER", "default", "resetchannels", f"&{prefix}*")

    async def subscriptions(self) -> set[str]:
        answers = await self.ask("PUBSUB", "SHARDCHANNELS")
        return {name.decode() for names in answers for name in names}

    async def ask(self, *command: str) -> list[Any]:
        """Send one command to each node, over connections of their own."""
        answers = []
        for node in self.cluster.nodes:
            async with _client(node.port) as client:
                answers.append(await client.execute_command(*command))
        return answers


def _client(port: int) -> RedisClient:
    return RedisClient(host=HOST, port=port, socket_timeout=60, single_connection_client=True)
