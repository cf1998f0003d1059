"""A Redis server whose streams are the log."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis as RedisClient
from redis.asyncio.client import Monitor

from fastapi_broadcaster import Broadcaster
from tests.brokers import QUICK, RedisBroker
from tests.proxy import Proxy

WAKE = "fastapi-broadcaster:wake:"


class RedisStreamBroker(RedisBroker):
    """Redis on a free port, which trims a log to nearly the number that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.url = f"redis-stream://127.0.0.1:{self.server.port}"

    def broadcaster(self, *, log_size: int | None = None, **options: Any) -> Broadcaster:
        url = f"{self.url}?maxlen={log_size}" if log_size else self.url
        return Broadcaster(url, **{"backoff": QUICK, **options})

    @asynccontextmanager
    async def losing_reply(self, to: bytes) -> AsyncIterator[Broadcaster]:
        async with Proxy(self.server.port, lose_reply_to=to) as proxy:
            url = f"redis-stream://127.0.0.1:{proxy.port}"
            async with Broadcaster(url, backoff=QUICK) as broadcaster:
                yield broadcaster

    async def wipe(self) -> None:
        if self.server.running:
            await self.ask("FLUSHALL")
        else:
            await asyncio.to_thread(shutil.rmtree, self.server.data, ignore_errors=True)

    async def refuse_all_but(self, prefix: str) -> None:
        keys = ("resetkeys", "%R~*", f"~{prefix}*", "~fastapi-broadcaster:*")
        await self.ask("ACL", "SETUSER", "default", *keys)

    async def subscriptions(self) -> set[str]:
        """The keys of every XREAD that is sent again when all readers are woken."""
        async with RedisClient.from_url(self.server.url, socket_timeout=60) as client:
            woken = {key.decode() async for key in client.scan_iter(f"{WAKE}*", count=10_000)}
            found: set[str] = set()

            async def watch(monitor: Monitor) -> None:
                while not woken <= found:
                    command = str((await monitor.next_command())["command"])
                    if command.startswith("XREAD "):
                        found.update(_keys(command))

            async with client.monitor() as monitor:
                watching = asyncio.create_task(watch(monitor))
                for key in woken:
                    await client.execute_command("XADD", key, "*", "wake", "")
                for _ in range(50):  # some have no reader any more; turns, for all may stand still
                    if watching.done():
                        break
                    await client.ping()
                    await asyncio.wait([watching], timeout=0.01)
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        return {key for key in found if not key.startswith(WAKE)}


def _keys(command: str) -> set[str]:
    words = re.split(" STREAMS ", command, flags=re.IGNORECASE)[1].split(" ")
    return set(words[: len(words) // 2])
