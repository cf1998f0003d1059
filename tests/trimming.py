"""Removes the oldest messages of a channel, past the package, as an administrator might."""

from __future__ import annotations

import asyncpg
from redis.asyncio import Redis

from tests.brokers import Broker
from tests.kafka.broker import KafkaBroker, delete_records

_DELETE = """delete from broadcaster where id in (
    select id from broadcaster where channel = $1 order by id limit $2)"""


def way_to_trim(broker: Broker) -> str | None:
    """The URL that `trim` wants; None for a broker that nobody can tell to remove messages."""
    if isinstance(broker, KafkaBroker):
        return f"kafka://127.0.0.1:{broker.direct}"
    return broker.url if broker.url.startswith(("redis-stream:", "postgres-stream:")) else None


async def trim(url: str, channel: str, gone: int, more: int) -> None:
    """Remove `more` messages of a channel from which `gone` have been removed."""
    scheme, _, rest = url.partition("-stream:" if "-stream:" in url else ":")
    match scheme:
        case "redis":
            async with Redis.from_url(f"redis:{rest}") as client:
                entries = await client.xrange(channel, count=more + 1) or []
                if len(entries) > more:
                    await client.xtrim(channel, minid=entries[-1][0], approximate=False)
                else:
                    await client.xtrim(channel, maxlen=0, approximate=False)
        case "postgres":
            connection = await asyncpg.connect(f"postgres:{rest}")
            await connection.execute(_DELETE, channel, more)
            await connection.close()
        case _:
            await delete_records(int(rest.rpartition(":")[2]), channel, gone + more)
