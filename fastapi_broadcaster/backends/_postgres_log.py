"""The statements of `postgres-stream://` and the proof that nothing behind a cursor was lost."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from fastapi_broadcaster.backends._postgres import Pool, Record
from fastapi_broadcaster.backends._postgres_live import message_of
from fastapi_broadcaster.exceptions import HistoryLostError
from fastapi_broadcaster.messages import Cursor, Message

_PIECE = 8 * 1024 * 1024  # bytes of one statement, unless a single message has more


class Statements:
    """What is read and written, for one table."""

    def __init__(self, table: str) -> None:
        t = table
        self.put = f"select * from {t}_put($1::text[], $2::bytea[])"
        self.state = f"""
            select epoch, floor, (select last_value from {t}_id) as last,
              coalesce(
                (select max(id) from {t}), greatest(floor, (select max(id) from {t}_floor))
              ) as newest
            from {t}_meta"""
        self.raise_to = f"select {t}_raise($1)"
        self.data = f"select id, data from {t} where id = any($1)"
        self.catch_up = f"""
            select null::bigint as id, channel, null::bytea as data, null::timestamptz as at,
              id as floor
            from {t}_floor where id > $1 and ($3::text[] is null or channel = any($3))
            union all
            (select id, channel, data, at, null from {t}
             where id > $1 and id <= $2 and ($3::text[] is null or channel = any($3))
             order by id limit $4)"""
        page = f"""
            select m.floor as reset, f.id as floor, (select last_value from {t}_id) as last,
              r.id, r.data, r.at
            from {t}_meta m left join {t}_floor f on f.channel = $1
            left join lateral (
              select id, data, at from {t} where channel = $1 and %s limit $3
            ) r on true order by r.id"""
        self.after = page % "id > $2 order by id"
        self.before = page % "id < $2 order by id desc"
        self.since = (
            page
            % f"""
            id >= (select id from {t} where channel = $1 and at >= $2 order by at, id limit 1)
            order by id"""
        )


class Log:
    """Reads pages, each with its proof, in one snapshot."""

    def __init__(self, pool: Pool, statements: Statements) -> None:
        self._pool = pool
        self._statements = statements

    async def after(self, channel: str, cursor: Cursor, limit: int) -> list[Message]:
        """The next ones behind the cursor, or `HistoryLostError`."""
        key = cursor.get("", -1)
        rows = await self._pool.fetch(self._statements.after, channel, key, limit)
        if key >= 0:
            _prove(key, rows[0])
        return _messages(channel, rows)

    async def before(self, channel: str, cursor: Cursor | None, limit: int) -> list[Message]:
        """The newest ones before the cursor, or of all."""
        key = 2**63 - 1 if cursor is None else cursor.get("", -1)
        return _messages(
            channel, await self._pool.fetch(self._statements.before, channel, key, limit)
        )

    async def since(self, channel: str, since: datetime, limit: int) -> list[Message]:
        """Those from that time on."""
        at = since.astimezone(UTC)
        return _messages(
            channel, await self._pool.fetch(self._statements.since, channel, at, limit)
        )


def _prove(key: int, state: Record) -> None:
    """Raise unless nothing behind the key was deleted."""
    if key < state["reset"] or key > state["last"]:
        raise HistoryLostError("reset", kept={"": state["reset"]})
    if state["floor"] is not None and key < state["floor"]:
        raise HistoryLostError("expired", kept={"": state["floor"]})


def _messages(channel: str, rows: list[Record]) -> list[Message]:
    return [message_of(channel, row) for row in rows if row["id"] is not None]


def cut(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """The pieces of a batch: one, unless it is very large."""
    first, size = 0, 0
    for at, message in enumerate(messages):
        if at > first and size + len(message.data) > _PIECE:
            yield messages[first:at]
            first, size = at, 0
        size += len(message.data)
    yield messages[first:]
