"""What the Redis backends share: where the server is, connections to it, and its errors."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from fastapi_broadcaster.backends._reasons import reason
from fastapi_broadcaster.exceptions import (
    BackendError,
    BackendUnavailableError,
    ConnectionLostError,
    UnsupportedError,
)

ELSEWHERE = (AskError, ClusterDownError, TryAgainError)  # ask again, maybe another node; or MOVED
LOST = (RedisConnectionError, RedisTimeoutError, OSError)
_ENCODE = (
    "the URL cannot be read: is the port a number, and are : / ? # [ ] @ in the user and the "
    "password percent-encoded?"
)
_NO_PASSWORD = "wants a password, and none was given: write USER:PASSWORD@ before the host"
_WITHOUT_TLS = "if this port speaks none, the URL begins with redis, not with rediss"
_POOL_OPTIONS = ("connection_class", "max_connections", "timeout")
_OURS = ("maint_", "orig_", "oss_", "himport", "event_dispatcher", "retry")


class Server:
    """One Redis server: its connections never retry, so that nothing is ever sent twice."""

    def __init__(
        self,
        kind: type[AbstractConnection],
        options: dict[str, Any],
        *,
        scheme: str = "redis",
        client: Redis | None = None,
    ) -> None:
        self._kind = kind
        self._client = client  # the connections of a Sentinel know its pool by a weak reference
        self._options: dict[str, Any] = {
            "socket_connect_timeout": 5.0,
            **options,
            "socket_timeout": None,  # redis-py's way to it swallows cancellations: see `exchange`
            "encoding": "utf-8",
            "encoding_errors": "strict",
            "decode_responses": False,
            "health_check_interval": 0,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_timeout": False,
            "retry_on_error": [],
        }
        self.timeout: float = options.get("socket_timeout") or 5.0
        self._handshake: float = self.timeout + (
            self._options["socket_connect_timeout"] or self.timeout
        )
        connection = self.connection()
        self.host: str = getattr(connection, "host", "?")
        pool = getattr(client, "connection_pool", None)
        where = getattr(pool, "service_name", None) or getattr(connection, "path", None)
        if where is None:
            where = f"{self.host}:{getattr(connection, 'port', '?')}"
        self._is_secure = "SSL" in kind.__name__
        if self._is_secure:
            scheme = scheme.replace("redis", "rediss", 1)
        self._name = f"{scheme}://{where}"

    @classmethod
    def from_url(cls, url: str, *, scheme: str = "redis") -> "Server":
        """Read a `redis://` or `rediss://` URL; options are those of redis-py's own URLs.

        Raises `ValueError`, which shows nothing that may be a part of a password.
        """
        name = scheme.replace("redis", "rediss", 1) if url.startswith("rediss:") else scheme
        parts = split_url(url, name)
        try:
            database = parts.path.strip("/")
            if database and not database.isdecimal():  # redis-py would take database 0
                raise ValueError("the database, behind the host, must be a number")
            options: dict[str, Any] = dict(parse_url(url))
            kind: type[AbstractConnection] = options.pop("connection_class", Connection)
            options = {key: value for key, value in options.items() if key not in _POOL_OPTIONS}
            return cls(kind, options, scheme=scheme)
        except TypeError as error:
            problem = f"unknown option {str(error).rpartition('argument ')[2]} in the URL"
        except (ValueError, RedisError) as error:
            problem = str(error)
        if "@" in unquote(parts.query):
            problem = _ENCODE
        raise ValueError(f"{name}://: {problem}")  # outside, so that no context shows more

    @classmethod
    def of(cls, client: Redis, *, scheme: str = "redis") -> "Server":
        """The server of the user's own client, with its address, credentials and TLS."""
        pool = client.connection_pool
        options = options_of(pool.connection_kwargs)
        return cls(pool.connection_class, options, scheme=scheme, client=client)

    def __str__(self) -> str:
        return self._name

    @property
    def database(self) -> int:
        """Its number; 0 is the only one that a cluster has."""
        return self._options.get("db") or 0

    def at(self, host: str, port: int) -> "Server":
        """Another server, which is reached in the same way."""
        address = {"host": host, "port": port, "socket_timeout": self.timeout}
        return Server(self._kind, {**self._options, **address})

    def connection(self, **options: Any) -> AbstractConnection:
        """A new connection that is not open yet."""
        return self._kind(**{**self._options, **options})

    async def open(self, connection: AbstractConnection) -> None:
        """Connect, with the driver's own errors; what does not come to be is closed."""
        limit = asyncio.timeout(self._handshake)
        try:
            async with limit:
                await cast(Any, connection).connect()  # without annotations in redis-py
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, TimeoutError) and limit.expired():
                raise RedisTimeoutError(f"no answer within {self._handshake:g} s") from None
            if isinstance(error, ResponseError) and "DB index" in str(error):
                raise RedisConnectionError(f"there is no database {self.database}") from None
            if isinstance(error, RedisTimeoutError) and self._is_secure:
                raise RedisTimeoutError(f"no answer in TLS in time: {_WITHOUT_TLS}") from None
            raise

    async def revive(self, connection: AbstractConnection) -> None:
        """Make a connection one that is not known to be dead; nothing is sent.

        Raises `ConnectionLostError`.
        """
        try:
            if connection.is_connected and await connection.can_read():
                await connection.disconnect(nowait=True)  # only an end can be read here
            if not connection.is_connected:
                await self.open(connection)
        except (RedisError, OSError) as error:
            raise ConnectionLostError(f"{self} is not reachable: {reason(error)}") from error

    @contextmanager
    def errors(self, *, maybe_published: bool = False) -> Generator[None]:
        """Give the driver's errors our names."""
        try:
            yield
        except AuthenticationError as error:
            known = self._options.get("password") or self._options.get("credential_provider")
            refused = "refused the user or password" if known else _NO_PASSWORD
            raise BackendUnavailableError(f"{self} {refused}") from error
        except LOST as error:
            raise BackendUnavailableError(
                f"{self} is not reachable: {reason(error)}", maybe_published=maybe_published
            ) from error
        except RedisError as error:
            raise BackendError(f"{self}: {error}") from error


def take_options(url: str, *names: str) -> tuple[dict[str, str], str]:
    """Those options of a URL's query that are ours, and the URL without them."""
    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    ours = {name: text for name, text in options if name in names}
    others = [(name, text) for name, text in options if name not in names]
    return ours, urlunsplit(parts._replace(query=urlencode(others)))


def is_cluster(options: Mapping[str, str]) -> bool:
    """Whether there is `?cluster=true`; raises `ValueError` for what is neither true nor false."""
    told = options.get("cluster", "false").lower()
    if told not in ("true", "1", "yes", "false", "0", "no"):
        raise ValueError(f"cluster= in a URL is true or false, not {told!r}")
    return told in ("true", "1", "yes")


def options_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those options of a client's connections that are good for ours too."""
    return {name: value for name, value in options.items() if not name.startswith(_OURS)}


def split_url(url: str, scheme: str) -> SplitResult:
    """Cut a URL up; a `ValueError` for what a bad one in it hides, without showing it."""
    parts = None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = None
    if parts is None or "@" in parts.path + parts.fragment:
        raise ValueError(f"{scheme}://: {_ENCODE}")
    return parts


def pack(*arguments: bytes) -> bytes:
    """One command in Redis' protocol."""
    bulks = [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]
    return b"*%d\r\n%b" % (len(bulks), b"".join(bulks))


def as_map(reply: Any) -> dict[bytes, Any]:
    """A map, which older versions of the protocol send as a flat list."""
    if isinstance(reply, list):
        flat = cast("Sequence[Any]", reply)
        return dict(zip(flat[::2], flat[1::2], strict=True))
    return cast("dict[bytes, Any]", reply)


def about_server(name: object, hello: Any) -> dict[bytes, Any]:
    """Read the reply to HELLO; an `UnsupportedError` before Redis 7.0."""
    about: dict[bytes, Any] = {} if isinstance(hello, Exception) else as_map(hello)
    version = about.get(b"version", b"?").decode()
    if not version.partition(".")[0].isdigit() or int(version.partition(".")[0]) < 7:
        raise UnsupportedError(f"{name} needs Redis 7.0 or newer, not {version}")
    return about


async def read_reply(connection: AbstractConnection) -> Any:
    """The next reply, without a time-out; what refuses the command is returned, not raised."""
    read = cast("Callable[..., Awaitable[Any]]", connection.read_response)
    try:
        return await read(timeout=math.inf, disconnect_on_error=False)
    except (ResponseError, BusyLoadingError) as error:
        return error


async def exchange(
    connection: AbstractConnection,
    commands: Sequence[bytes],
    timeout: float,
    replies: list[Any] | None = None,
) -> list[Any]:
    """Send packed commands together and read their replies, refusals among them, into `replies`.

    `timeout` is for each reply. The connection is closed if anything comes between: what it still
    answers is nobody's.
    """
    replies = [] if replies is None else replies
    limit = asyncio.timeout(timeout)
    try:
        if not connection.is_connected:
            raise RedisConnectionError("the connection was closed")
        async with limit:
            await connection.send_packed_command(commands, check_health=False)
            for _ in commands:
                replies.append(await read_reply(connection))
                limit.reschedule(asyncio.get_running_loop().time() + timeout)
    except BaseException as error:
        await connection.disconnect(nowait=True)
        if isinstance(error, TimeoutError) and limit.expired():
            raise RedisTimeoutError(f"no reply within {timeout:g} s") from None
        raise
    return replies


async def ask(
    connection: AbstractConnection, commands: Sequence[bytes], timeout: float
) -> list[Any]:
    """`exchange` with a server that has all its data already, else it counts as away."""
    replies = await exchange(connection, commands, timeout)
    for reply in replies:
        if isinstance(reply, BusyLoadingError):
            await connection.disconnect(nowait=True)
            raise reply
    return replies
