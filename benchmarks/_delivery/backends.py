"""The backends, each with a server that keeps what it acknowledges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from servers import Kafka, Postgres, RabbitMQ, Redis, RedisCluster, Server

AnyServer = Server | RedisCluster

_NOTE_STREAMS = """
rabbit_amqqueue:declare({resource, <<"/">>, queue, <<"first">>}, true, false,
    [{<<"x-queue-type">>, longstr, <<"stream">>}], none, <<"benchmark">>),
[dets:sync(Table) || Table <- dets:all()].
"""


class DurablePostgres(Postgres):
    """The one of the tests does without, because a kill leaves the system's cache alone."""

    settings = ("fsync=on", "synchronous_commit=on")


class StreamingRabbitMQ(RabbitMQ):
    """Writes down that it has streams, as it does by itself three minutes after the first one.

    Killed before that, RabbitMQ 3.10 forgets who coordinates them, and none ever runs again.
    """

    def start(self, *, timeout: float = 60.0) -> None:
        super().start(timeout=timeout)
        self.evaluate(_NOTE_STREAMS)


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One backend; without a `server` its worker is its broker."""

    name: str
    server: Callable[[], AnyServer] | None
    log: bool
    scheme: str = ""
    options: str = ""
    """What makes the log long enough for a run."""

    def url(self, server: AnyServer | None) -> str:
        """Where it is reached, with a scheme that is its name if it has no other."""
        scheme = self.scheme or self.name
        if server is None:
            return f"{scheme}://{self.options}"
        return f"{scheme}://{server.url.partition('://')[2]}{self.options}"


BACKENDS = {
    backend.name: backend
    for backend in [
        Backend(name="memory", server=None, log=True, options="?history=1000000"),
        Backend(name="redis", server=Redis.private, log=False),
        Backend(name="redis-cluster", server=RedisCluster, log=False, scheme="redis"),
        Backend(name="redis-stream", server=Redis.private, log=True, options="?maxlen=1000000"),
        Backend(name="postgres", server=DurablePostgres.private, log=False),
        Backend(
            name="postgres-stream",
            server=DurablePostgres.private,
            log=True,
            options="?history=1000000",
        ),
        Backend(name="kafka", server=Kafka.private, log=True),
        Backend(name="amqp", server=RabbitMQ.private, log=False),
        Backend(name="amqp-stream", server=StreamingRabbitMQ.private, log=True),
    ]
}
