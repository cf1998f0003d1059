from redis.asyncio import Redis

from fastapi_broadcaster import Broadcaster
from fastapi_broadcaster.backends.redis import RedisBackend


def make_broadcaster(client: Redis) -> Broadcaster:
    return Broadcaster(backend=RedisBackend(client=client))
