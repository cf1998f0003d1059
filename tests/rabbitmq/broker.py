"""A RabbitMQ server of a test's own, behind both RabbitMQ backends."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import aio_pika

from fastapi_broadcaster import Broadcaster
from servers import RabbitMQ
from tests.brokers import QUICK, Broker
from tests.conformance.tools import until
from tests.proxy import Proxy

EXCHANGE = "fastapi_broadcaster"
_KEYS = """
[Key || {binding, {resource, _, exchange, <<"%s">>}, Key, _, _} <- rabbit_binding:list(<<"/">>)].
"""
_QUEUES = """
[Name || {resource, _, queue, Name} <- rabbit_amqqueue:list_names()].
"""
_CONSUMED = """
[Name || {{{resource, _, queue, Name}, Channel, _}, _, _, _, _, _, _}
    <- ets:tab2list(consumer_created), is_process_alive(Channel)].
"""
_BEGIN = """
rabbit_amqqueue:declare({resource, <<"/">>, queue, <<"first">>}, true, false,
    [{<<"x-queue-type">>, longstr, <<"stream">>}], none, <<"test">>),
[dets:sync(Table) || Table <- dets:all()].
"""
_FIRST = """
[rabbit_amqqueue:info(Queue, [state]) ||
    {ok, Queue} <- [rabbit_amqqueue:lookup({resource, <<"/">>, queue, <<"first">>})]].
"""
_CLOSE = """
[rabbit_networking:close_connection(Pid, "a test") || Pid <- rabbit_networking:connections()].
"""


class RabbitMQBroker(Broker):
    """Subscriptions are bindings."""

    scheme = "amqp"

    def __init__(self) -> None:
        self.server = RabbitMQ.private()
        self.url = self.url_at(self.server.port)

    @property
    def amqp_url(self) -> str:
        """What other clients connect to."""
        return self.server.url

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.server.__exit__(None, None, None)

    def url_at(self, port: int) -> str:
        return f"{self.scheme}://guest:guest@127.0.0.1:{port}/"

    def broadcaster(self, *, log_size: int | None = None, **options: Any) -> Broadcaster:
        return Broadcaster(self.url, **{"backoff": QUICK, **options})

    @asynccontextmanager
    async def losing_reply(self, to: bytes) -> AsyncIterator[Broadcaster]:
        async with (
            Proxy(self.server.port, lose_reply_to=to) as proxy,
            Broadcaster(self.url_at(proxy.port), backoff=QUICK) as broadcaster,
        ):
            yield broadcaster

    async def kill(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def restart(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def pause(self) -> None:
        self.server.pause()

    async def resume(self) -> None:
        self.server.resume()

    async def drop_clients(self) -> None:
        await self.evaluate(_CLOSE)

    async def wipe(self) -> None:
        """There is no log."""

    async def refuse_all_but(self, prefix: str) -> None:
        await self.control(
            *("set_topic_permissions", "guest", EXCHANGE, f"^{re.escape(prefix)}.*", ".*")
        )

    async def subscriptions(self) -> set[str]:
        return binaries(await self.evaluate(_KEYS % EXCHANGE))

    async def control(self, *words: str) -> str:
        """Run rabbitmqctl."""
        return await asyncio.to_thread(self.server.control, *words)

    async def evaluate(self, expression: str) -> str:
        """Evaluate Erlang in the server."""
        return await asyncio.to_thread(self.server.evaluate, expression)


class RabbitMQStreamBroker(RabbitMQBroker):
    """Subscriptions are consumers of streams."""

    scheme = "amqp-stream"

    def __enter__(self) -> Self:
        """Let the server note that it has streams, as it does by itself three minutes later.

        Killed before that, RabbitMQ 3.10 forgets who coordinates them, and none ever runs again.
        """
        super().__enter__()
        try:
            self.server.evaluate(_BEGIN)
            while "running" not in self.server.evaluate(_FIRST):
                time.sleep(0.05)
        except BaseException:
            self.server.kill()
            raise
        return self

    def broadcaster(self, *, log_size: int | None = None, **options: Any) -> Broadcaster:
        """A server is never asked for less than 100 kB: it would trim what it is about to send."""
        limit = f"?max_bytes={log_size * 1_000}" if log_size and log_size >= 100 else ""
        return Broadcaster(self.url + limit, **{"backoff": QUICK, **options})

    async def wipe(self) -> None:
        if not self.server.running:
            await asyncio.to_thread(shutil.rmtree, self.server.data)
            return
        async with await aio_pika.connect(self.amqp_url) as connection:
            for queue in binaries(await self.evaluate(_QUEUES)):
                channel = await connection.channel()
                await channel.queue_delete(queue)

    async def restart(self) -> None:
        """Streams run some time after the server does.

        One that was in the making when the server was killed may never run.
        """
        await super().restart()

        async def they_run() -> bool:
            state = await self.evaluate(_FIRST)
            return "running" in state or "state" not in state

        await until(they_run)

    async def refuse_all_but(self, prefix: str) -> None:
        """No other streams may be made."""
        may = f"^{re.escape(prefix)}.*"
        await self.control("set_permissions", "guest", may, ".*", ".*")

    async def subscriptions(self) -> set[str]:
        return binaries(await self.evaluate(_CONSUMED))


def stream(rabbitmq: RabbitMQBroker, **options: object) -> Broadcaster:
    """A broadcaster whose log is in streams of that server."""
    query = "&".join(f"{name}={value}" for name, value in options.items())
    url = rabbitmq.amqp_url.replace("amqp:", "amqp-stream:", 1)
    return Broadcaster(f"{url}?{query}", backoff=QUICK)


def binaries(answer: str) -> set[str]:
    """The names in what `evaluate` returns."""
    found = re.findall(r"#Bin<([\d,]*)>", answer)
    return {bytes(map(int, filter(None, one.split(",")))).decode() for one in found}
