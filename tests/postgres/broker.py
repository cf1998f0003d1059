"""A PostgreSQL server of a test's own, behind both Postgres backends."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import asyncpg

from fastapi_broadcaster import Broadcaster
from fastapi_broadcaster.backends.postgres_stream import PostgresStreamBackend, schema_sql
from servers import Postgres
from tests.brokers import QUICK, Broker
from tests.proxy import Proxy

_LISTEN = re.compile(r'(un)?listen "((?:[^"]|"")*)"')
_REFUSING = """
    create function public.pg_notify(channel text, payload text) returns void
    language plpgsql as $$ begin
      if channel not like '{prefix}%' then raise exception 'not allowed: %', channel; end if;
      perform pg_catalog.pg_notify(channel, payload);
    end $$;
    alter database postgres set search_path = public, pg_catalog;
"""


class LoggingPostgres(Postgres):
    """Writes every statement to its log, where LISTEN and UNLISTEN can be read."""

    settings = (
        "log_statement=all",
        "log_parameter_max_length=0",
        "log_disconnections=on",
        "log_line_prefix=%p ",
    )


class PostgresBroker(Broker):
    """Subscriptions are LISTENs."""

    scheme = "postgres"
    broadcasters: list[Broadcaster]

    def __init__(self) -> None:
        self.server = LoggingPostgres.private()
        self.url = self.url_at(self.server.port)
        self.broadcasters = []

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.server.__exit__(None, None, None)

    def url_at(self, port: int) -> str:
        return f"{self.scheme}://postgres@127.0.0.1:{port}/postgres"

    def broadcaster(self, *, log_size: int | None = None, **options: Any) -> Broadcaster:
        broadcaster = Broadcaster(self.url, **{"backoff": QUICK, **options})
        self.broadcasters.append(broadcaster)
        return broadcaster

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
        await self.ask(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )

    async def wipe(self) -> None:
        """There is no log."""

    async def refuse_all_but(self, prefix: str) -> None:
        """By a function of the same name that new connections find first."""
        await self.ask(_REFUSING.format(prefix=prefix))

    async def subscriptions(self) -> set[str]:
        """What the server's processes were told, as its log has it."""
        listening: dict[str, set[str]] = {}
        for line in self.server.log.read_text().splitlines():
            pid, _, text = line.partition(" ")
            if "starting PostgreSQL" in text:
                listening.clear()
            elif "disconnection: " in text:
                listening.pop(pid, None)
            elif "statement: " in text:
                for negation, name in _LISTEN.findall(text):
                    names = listening.setdefault(pid, set())
                    (names.discard if negation else names.add)(name.replace('""', '"'))
        return set().union(*listening.values())

    async def ask(self, sql: str, *arguments: object) -> list[Any]:
        """Run SQL over a connection of its own; several statements if there are no arguments."""
        connection = await asyncpg.connect(self.server.url)
        try:
            if arguments or sql.lstrip().startswith("select"):
                return await connection.fetch(sql, *arguments)
            await connection.execute(sql)
            return []
        finally:
            await connection.close()


class PostgresStreamBroker(PostgresBroker):
    """Subscriptions are the process's own: the server sends it everything."""

    scheme = "postgres-stream"

    def broadcaster(self, *, log_size: int | None = None, **options: Any) -> Broadcaster:
        url = f"{self.url}?history={log_size}" if log_size else self.url
        broadcaster = Broadcaster(url, **{"backoff": QUICK, **options})
        self.broadcasters.append(broadcaster)
        return broadcaster

    async def wipe(self) -> None:
        sql = "truncate broadcaster;"
        if self.server.running:
            await self.ask(sql)
        else:
            await asyncio.to_thread(self.server.single_user, sql)

    async def refuse_all_but(self, prefix: str) -> None:
        await self.ask(schema_sql())
        await self.ask(
            f"alter table broadcaster add constraint refused check (channel like '{prefix}%')"
        )

    async def subscriptions(self) -> set[str]:
        found: set[str] = set()
        for broadcaster in self.broadcasters:
            assert isinstance(broadcaster.backend, PostgresStreamBackend)
            live = broadcaster.backend._live
            found |= {*live.channels, *live.patterns}
        return found
