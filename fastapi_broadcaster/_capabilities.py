"""What a backend can do for a subscription, known before it connects."""

from fastapi_broadcaster._options import Options
from fastapi_broadcaster._targets import Target
from fastapi_broadcaster.backends.base import (
    Backend,
    HistoryBackend,
    PatternBackend,
    TransactionBackend,
)
from fastapi_broadcaster.exceptions import UnsupportedError
from fastapi_broadcaster.messages import Message, Receipt

_INSTEAD = {
    "redis": "redis-stream://",
    "rediss": "rediss-stream://",
    "postgres": "postgres-stream://",
    "postgresql": "postgres-stream://",
    "amqp": "amqp-stream://",
    "amqps": "amqp-stream://",
}
_PATTERNS = {
    "redis": "redis:// of a Redis that is no cluster",
    "rediss": "rediss:// of a Redis that is no cluster",
    "redis-stream": "redis:// or postgres-stream://",
    "rediss-stream": "rediss:// or postgres-stream://",
    "postgres": "postgres-stream://",
    "postgresql": "postgres-stream://",
    "amqp-stream": "amqp://",
    "amqps-stream": "amqps://",
}


def check_options(backend: Backend, targets: tuple[Target, ...], options: Options) -> None:
    """Raise `UnsupportedError` for what this backend cannot do."""
    if any(target.is_pattern for target in targets):
        if not isinstance(backend, PatternBackend):
            kind = _kind(backend)
            instead = _PATTERNS.get(kind.partition(":")[0], "memory:// or postgres-stream://")
            raise UnsupportedError(f"{kind} cannot subscribe to patterns: use {instead} for them")
        if options.wants_log:
            raise UnsupportedError("history=, latest= and catch_up do not go with a pattern")
    if options.wants_log and not isinstance(backend, HistoryBackend):
        raise no_log(backend)


def no_log(backend: Backend) -> UnsupportedError:
    """Say that there is no history, and which URL has one."""
    kind = _kind(backend)
    instead = _INSTEAD.get(kind.partition(":")[0], "memory:// or redis-stream://")
    if "cluster" in kind:
        instead += " of a Redis that is no cluster"
    return UnsupportedError(f"{kind} keeps no log, so there is no history: use {instead} for it")


def _kind(backend: Backend) -> str:
    """What it is, without where it is: clients may be told."""
    scheme, found, rest = str(backend).partition("://")
    _, mark, options = rest.partition("?")
    return scheme + found + mark + options if found else type(backend).__name__


async def publish_in(backend: Backend, connection: object, message: Message) -> Receipt:
    """Publish inside the caller's transaction, where the backend can; the id is not known yet."""
    if not isinstance(backend, TransactionBackend):
        raise UnsupportedError(
            f"{_kind(backend)} cannot publish inside a transaction (connection=): "
            "use postgres-stream://"
        )
    await backend.publish_in(connection, message)
    return Receipt(channel=message.channel)
