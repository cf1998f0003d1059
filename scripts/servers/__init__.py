"""Real servers for the tests, without containers.

A server keeps its data, its log and its pid in a folder of its own, and starts again on the same
port and data after a stop or a kill. Those in SERVERS are what `scripts/services` runs; a test that
breaks a server brings its own:

    with Redis.private() as server:
        server.kill()
        server.start()

A new kind of server is a module with a subclass of Server, and a line in SERVERS.
"""

from __future__ import annotations

from collections.abc import Mapping

from servers.base import Server, ServerError, free_port, install, kill_strays
from servers.debian import PackageError
from servers.kafka import Kafka, SecureKafka
from servers.postgres import Postgres
from servers.rabbitmq import RabbitMQ
from servers.redis import Redis
from servers.redis_cluster import RedisCluster

__all__ = [
    "SERVERS",
    "Kafka",
    "PackageError",
    "Postgres",
    "RabbitMQ",
    "Redis",
    "RedisCluster",
    "SecureKafka",
    "Server",
    "ServerError",
    "free_port",
    "install",
    "kill_strays",
]

SERVERS: Mapping[str, Server] = {
    server.name: server
    for server in [
        Redis("redis", 21379),
        Postgres("postgres", 21432),
        RabbitMQ("rabbitmq", 21672),
        Kafka("kafka", 21092),
    ]
}
