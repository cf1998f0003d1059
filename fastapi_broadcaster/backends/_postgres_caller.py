"""Publishing inside the caller's transaction, whichever of the usual clients it is on."""

from typing import Any, cast

from fastapi_broadcaster.messages import Message

_COLUMNS = "(channel, data) values"


async def insert(connection: object, table: str, message: Message) -> None:
    """Insert a message into the outbox; the driver's own errors reach the caller.

    The transaction is the caller's, who must know when it has failed and may try it again.
    """
    client = cast(Any, connection)
    head = f"insert into {table} {_COLUMNS}"
    match _kind(connection):
        case "asyncpg":
            await client.execute(f"{head} ($1, $2)", message.channel, message.data)
        case "psycopg":
            await client.execute(f"{head} (%s, %s)", (message.channel, message.data))
        case "sqlalchemy":
            from sqlalchemy import text

            values = {"channel": message.channel, "data": message.data}
            await client.execute(text(f"{head} (:channel, :data)"), values)
        case _:
            raise TypeError(
                "connection= takes an asyncpg connection, a psycopg.AsyncConnection, or an "
                f"SQLAlchemy AsyncConnection or AsyncSession, not {type(connection).__name__}"
            )


_KINDS = {
    ("asyncpg", "Connection"): "asyncpg",
    ("asyncpg", "PoolConnectionProxy"): "asyncpg",
    ("psycopg", "AsyncConnection"): "psycopg",
    ("sqlalchemy", "AsyncConnection"): "sqlalchemy",
    ("sqlalchemy", "AsyncSession"): "sqlalchemy",
    ("sqlalchemy", "async_scoped_session"): "sqlalchemy",
}


def _kind(connection: object) -> str | None:
    """Whose connection it is, by the classes that it is made of; nothing need be installed."""
    for kind in type(connection).__mro__:
        found = _KINDS.get((kind.__module__.partition(".")[0], kind.__name__))
        if found is not None:
            return found
    return None
