"""`postgres-stream://`: a table that keeps the log, and one NOTIFY channel that tells of it."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from fastapi_broadcaster.backends._postgres import Address, Pool, Sender, send, split_options
from fastapi_broadcaster.backends._postgres_caller import insert
from fastapi_broadcaster.backends._postgres_listening import Listening
from fastapi_broadcaster.backends._postgres_live import Live, Names
from fastapi_broadcaster.backends._postgres_log import Log, Statements, cut
from fastapi_broadcaster.backends._postgres_retention import Retention
from fastapi_broadcaster.backends._postgres_schema import Schema, schema_sql
from fastapi_broadcaster.backends.base import (
    HistoryBackend,
    Outcome,
    PatternBackend,
    TransactionBackend,
)
from fastapi_broadcaster.exceptions import ConnectionLostError, HistoryLostError
from fastapi_broadcaster.messages import Cursor, Gap, Message

__all__ = ["PostgresStreamBackend", "from_url", "schema_sql"]

_PAGE = 250  # messages of one read of a catch-up
_FETCH = 16  # large messages fetched at once


def from_url(url: str) -> "PostgresStreamBackend":
    """`postgres-stream://user@host/database?history=10000&max_age=86400&create=true`.

    Also `schema=` and `table=`; the other options are those of asyncpg's own URLs.
    """
    readers: dict[str, Callable[[str], Any]] = {
        "history": int,
        "max_age": float,
        "create": _flag,
        "schema": str,
        "table": str,
    }
    url, options = split_options(url, readers)
    return PostgresStreamBackend(url, **options)


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


class PostgresStreamBackend(HistoryBackend, PatternBackend, TransactionBackend):
    """Keeps about the newest `history` messages of each channel (0: all), and none that is older
    than `max_age` seconds (None: any age).

    The log is `table` in `schema`, with functions and triggers; `create` makes them when they are
    missing, and `schema_sql()` prints them for migrations. All messages have one order, that of
    their commits. Deleting rows by hand is allowed: readers are told. Time-outs are in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        history: int = 10_000,
        max_age: float | None = None,
        create: bool = True,
        schema: str = "public",
        table: str = "broadcaster",
        connect_timeout: float = 5.0,
        command_timeout: float = 5.0,
    ) -> None:
        if history < 0 or (max_age is not None and max_age <= 0):
            raise ValueError("postgres-stream://: history and max_age must be positive")
        self._address = Address(
            url,
            connect_timeout=connect_timeout,
            command_timeout=command_timeout,
        )
        self._schema = Schema(schema, table)
        self._create = create
        self._sql = Statements(self._schema.table)
        self._sender = Sender(self._address)
        self._pool = Pool(self._address)
        self._log = Log(self._pool, self._sql)
        self._retention = Retention(self._pool, self._schema, keep=history or None, max_age=max_age)
        self._live = Live(self._retention.heard)
        self._trimming: asyncio.Task[None] | None = None
        self._listening: Listening[str] | None = None
        self._caught_up: asyncio.Future[None] | None = None

    def __str__(self) -> str:
        return str(self._address)

    async def connect(self) -> None:
        connection = await self._sender.open()
        with self._address.errors():
            await self._schema.install(connection, create=self._create)
            self._live.enter(await connection.fetchval(self._sql.state))
        self._trimming = asyncio.create_task(
            self._retention.run(), name="broadcaster-postgres-retention"
        )

    async def disconnect(self) -> None:
        trimming, self._trimming = self._trimming, None
        if trimming is not None:
            trimming.cancel()
            await asyncio.wait([trimming])
        self._pool.drop()
        await self._sender.close()
        self._live = Live(self._retention.heard)

    # -- publishing -------------------------------------------------------------------------

    async def reach(self) -> None:
        await self._sender.ready()

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        await self._sender.ready()
        return await send(cut(messages), self._put)

    async def _put(self, piece: Sequence[Message]) -> Sequence[Outcome]:
        channels = [message.channel for message in piece]
        payloads = [message.data for message in piece]
        rows = await self._sender.fetch(self._sql.put, channels, payloads, maybe_published=True)
        return [("", row[0]) for row in rows]

    async def publish_in(self, connection: object, message: Message) -> None:
        await insert(connection, f"{self._schema.table}_outbox", message)

    # -- listening --------------------------------------------------------------------------

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, Cursor]:
        newest = await self._join(self._live.channels, channels)
        return {channel: {"": newest} for channel in channels}

    async def unsubscribe(self, channels: Collection[str]) -> None:
        for channel in channels:
            self._live.channels.pop(channel, None)

    async def psubscribe(self, patterns: Collection[str]) -> None:
        await self._join(self._live.patterns, patterns)

    async def punsubscribe(self, patterns: Collection[str]) -> None:
        for pattern in patterns:
            self._live.patterns.pop(pattern, None)

    async def _join(self, names: Names, wanted: Collection[str]) -> int:
        """Hear names from now on, which is behind the newest message; what was heard stays."""
        listening, caught_up = self._listening, self._caught_up
        if listening is None or caught_up is None:
            raise ConnectionLostError(f"{self} is not connected")
        await asyncio.shield(caught_up)
        [state] = await listening.fetch(self._sql.state)
        if listening is not self._listening:
            raise ConnectionLostError(f"{self}: the connection was lost")
        newest: int = max(self._live.seen, state["newest"])
        for name in wanted:
            names.setdefault(name, newest)
        return newest

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        listening = await Listening[str].open(
            self._address, lambda _, payload: listening.hear(payload)
        )
        caught_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listening, self._caught_up = listening, caught_up
        try:
            await listening.listen([self._schema.channel])
            yield ()
            async for batch in self._catch_up(listening):
                yield batch
            caught_up.set_result(None)
            async for payloads in listening.batches():
                async for batch in self._read(listening, payloads):
                    yield batch
        finally:
            self._listening = None
            if not caught_up.done():
                caught_up.set_exception(ConnectionLostError(f"{self}: the connection was lost"))
                caught_up.exception()  # seen, also when nobody waits
            await listening.close()

    async def _catch_up(self, listening: Listening[str]) -> AsyncIterator[Sequence[Message | Gap]]:
        """Go on from the position, and prove that nothing behind it was lost."""
        live = self._live
        [state] = await listening.fetch(self._sql.state)
        if live.position is None:
            live.enter(state["epoch"], lost=True)
            live.start(state["newest"])
            return
        if state["last"] < live.position:
            await listening.fetch(self._sql.raise_to, live.position)
            [state] = await listening.fetch(self._sql.state)
        live.begin()
        if state["epoch"] != live.epoch:
            live.enter(state["epoch"], lost=True)
            yield live.gaps("reset")
        names = None if live.patterns else list(live.channels)
        while True:
            rows = await listening.fetch(
                self._sql.catch_up, live.position, state["newest"], names, _PAGE
            )
            ids = [row["id"] for row in rows if row["id"] is not None]
            batch = live.page(rows)
            full = len(ids) == _PAGE
            live.start(max(ids) if full else max(live.position, state["newest"]))
            if batch:
                yield batch
            if not full:
                return

    async def _read(
        self, listening: Listening[str], payloads: Sequence[str]
    ) -> AsyncIterator[Sequence[Message | Gap]]:
        """Make batches of notifications; large messages are fetched by their ids."""
        batch: list[Message | Gap] = []
        absent: list[int] = []
        for payload in payloads:
            notice = self._live.notice(payload)
            if notice is None:
                continue
            message, large = notice
            if large:
                absent.append(len(batch))
            batch.append(message)
            if len(absent) == _FETCH:
                complete = await self._complete(listening, batch, absent)
                self._live.done()
                yield complete
                batch, absent = [], []
        complete = await self._complete(listening, batch, absent)
        self._live.done()
        if complete:
            yield complete

    async def _complete(
        self, listening: Listening[str], batch: list[Message | Gap], absent: list[int]
    ) -> list[Message | Gap]:
        if not absent:
            return batch
        large = [message for at in absent if isinstance(message := batch[at], Message)]
        ids = [message.position[1] for message in large if message.position is not None]
        rows = await listening.fetch(self._sql.data, ids)
        found = {row["id"]: row["data"] for row in rows}
        complete = list[Message | Gap]()
        for at, item in enumerate(batch):
            if at in absent and isinstance(item, Message) and item.position is not None:
                if item.position[1] not in found:  # deleted meanwhile
                    complete += self._live.gaps_of(item.channel, "expired")
                    continue
                item.data = found[item.position[1]]
            complete.append(item)
        return complete

    # -- the log ----------------------------------------------------------------------------

    async def history(
        self,
        channel: str,
        *,
        after: Cursor | None = None,
        before: Cursor | None = None,
        since: datetime | None = None,
        limit: int,
    ) -> list[Message]:
        if after is not None:
            return await self._log.after(channel, after, limit)
        if since is not None:
            return await self._log.since(channel, since, limit)
        return await self._log.before(channel, before, limit)

    def parse(self, id: str) -> Cursor:
        found = re.fullmatch(r"([0-9a-f]{8})-([0-9]{1,18})", id)
        if found is None or found[1] not in self._live.epochs:
            raise HistoryLostError("reset", kept={})
        return {"": int(found[2])}

    def format(self, cursor: Cursor) -> str:
        return f"{self._live.epoch}-{cursor.get('', 0)}"
