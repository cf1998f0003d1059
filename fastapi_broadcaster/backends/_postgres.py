"""What both Postgres backends share: the address, the driver's errors, a connection to publish."""

import asyncio
import os
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import asyncpg

from fastapi_broadcaster.backends._reasons import reason
from fastapi_broadcaster.backends.base import Outcome
from fastapi_broadcaster.exceptions import (
    BackendError,
    BackendUnavailableError,
    ConnectionLostError,
)

if TYPE_CHECKING:  # generic for type checkers only
    Connection = asyncpg.Connection[asyncpg.Record]
    Record = asyncpg.Record
else:
    Connection = asyncpg.Connection
    Record = asyncpg.Record

C = TypeVar("C", bound="Connection")
T = TypeVar("T")
_IDLE = 2.0  # seconds until spare connections are closed
_LOST = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.ReadOnlySQLTransactionError,
)


class Address:
    """Where the server is, by a URL that asyncpg reads, and how it is named: without a password.

    Time-outs are in seconds.
    """

    def __init__(self, url: str, *, connect_timeout: float, command_timeout: float) -> None:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if any("@" in text for text in (parts.path, parts.fragment, *query)):
            raise ValueError(
                f"{parts.scheme}://: a / ? # or @ in the user or password must be percent-encoded"
            )
        self.dsn = parts._replace(scheme="postgresql").geturl()
        self.name = _name(parts.scheme, parts.netloc, parts.path, query)
        self.connect_timeout = connect_timeout
        self.command_timeout = command_timeout

    def __str__(self) -> str:
        return self.name

    async def open(self, kind: "type[C]") -> C:
        """Connect to a server that takes writes; raises `BackendUnavailableError`."""
        try:
            async with asyncio.timeout(self.connect_timeout):
                connection = await asyncpg.connect(
                    self.dsn, connection_class=kind, timeout=self.connect_timeout
                )
        except asyncpg.UndefinedObjectError as error:
            raise ValueError(f"{self.name.partition(':')[0]}://: {error} in the URL") from None
        except (asyncpg.PostgresError, ValueError, *_LOST) as error:
            raise BackendUnavailableError(self._reason(error)) from error
        try:
            if await connection.fetchval(
                "select pg_is_in_recovery()", timeout=self.connect_timeout
            ):
                raise asyncpg.ReadOnlySQLTransactionError("it is a standby")
        except BaseException as error:
            connection.terminate()
            if not isinstance(error, (asyncpg.PostgresError, *_LOST)):
                raise
            raise BackendUnavailableError(self._reason(error)) from error
        return connection

    def _reason(self, error: Exception) -> str:
        match error:
            case asyncpg.InvalidAuthorizationSpecificationError():
                return f"{self} refused the user or password: {error}"
            case asyncpg.InvalidCatalogNameError():
                return f"{self}: the database does not exist"
            case asyncpg.ReadOnlySQLTransactionError():
                return f"{self} is a standby, which takes no LISTEN, NOTIFY or writes"
            case ssl.SSLError():
                return f"{self}: TLS failed: {error}"
            case TimeoutError():
                return f"{self} did not answer within {self.connect_timeout:g} s"
            case _:
                return f"{self} is not reachable: {reason(error)}"

    @contextmanager
    def errors(self, *, maybe_published: bool = False) -> Generator[None]:
        """Give the driver's errors our names: away, or refused."""
        try:
            yield
        except _LOST as error:
            read_only = isinstance(error, asyncpg.ReadOnlySQLTransactionError)
            if isinstance(error, TimeoutError):
                reason = f"{self} did not answer within {self.command_timeout:g} s"
            elif isinstance(error, asyncpg.InternalClientError):  # over a connection that broke
                reason = f"{self}: the server closed the connection"
            else:
                reason = self._reason(error) if read_only else f"{self}: {error}"
            raise BackendUnavailableError(
                reason, maybe_published=maybe_published and not read_only
            ) from error
        except asyncpg.PostgresError as error:
            raise BackendError(f"{self}: {error}") from error


def split_options(
    url: str, readers: Mapping[str, Callable[[str], Any]]
) -> tuple[str, dict[str, Any]]:
    """Take our own options out of a URL; raises `ValueError` for one that cannot be read."""
    parts = urlsplit(url)
    options: dict[str, Any] = {}
    rest: list[tuple[str, str]] = []
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        try:
            if name in readers:
                options[name] = readers[name](text)
            else:
                rest.append((name, text))
        except ValueError:
            raise ValueError(f"{parts.scheme}://: {name}={text!r} cannot be read") from None
    return parts._replace(query=urlencode(rest)).geturl(), options


def _name(scheme: str, netloc: str, path: str, query: Mapping[str, str]) -> str:
    """Host, port and database as the driver will find them."""
    user, _, hosts = netloc.rpartition("@")
    user = unquote(user.partition(":")[0]) or query.get("user") or os.environ.get("PGUSER", "")
    hosts = hosts or query.get("host") or os.environ.get("PGHOST") or "localhost"
    port = query.get("port") or os.environ.get("PGPORT") or "5432"
    named = [
        host if ":" in host.rpartition("]")[2] or "/" in host else f"{host}:{port}"
        for host in hosts.split(",")
    ]
    database = unquote(path.lstrip("/")) or query.get("dbname") or query.get("database")
    database = database or os.environ.get("PGDATABASE") or user
    return f"{scheme.lower()}://{','.join(named)}/{database}"


class Sender:
    """A connection for statements, one at a time; opened anew when it is known to be dead."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connection: Connection | None = None

    async def open(self) -> Connection:
        """Connect; raises `BackendUnavailableError`."""
        self._connection = await self._address.open(Connection)
        return self._connection

    async def ready(self) -> None:
        """Raises `ConnectionLostError`: nothing has left yet."""
        if self._connection is None or self._connection.is_closed():
            try:
                await self.open()
            except BackendUnavailableError as error:
                raise ConnectionLostError(str(error)) from error

    async def fetch(
        self, sql: str, *arguments: object, maybe_published: bool = False
    ) -> list[Record]:
        """Run one statement in a transaction of its own.

        Raises `BackendError` when it was refused, and `BackendUnavailableError` when there was no
        answer. After that, and after a cancellation, the connection is thrown away: what it still
        answers is nobody's.
        """
        connection = self._connection
        if connection is None or connection.is_closed():
            connection = await self.open()
        try:
            with self._address.errors(maybe_published=maybe_published):
                return await connection.fetch(
                    sql, *arguments, timeout=self._address.command_timeout
                )
        except BaseException as error:
            if isinstance(error, BackendUnavailableError) or not isinstance(error, BackendError):
                connection.terminate()
            raise

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await close(connection)

    def terminate(self) -> None:
        """Close at once, without a good-bye."""
        if self._connection is not None:
            self._connection.terminate()


async def close(connection: Connection) -> None:
    """Say good-bye if the server is there to hear it; nothing is left either way."""
    try:
        await connection.close(timeout=1.0)
    except (asyncpg.PostgresError, *_LOST):
        pass
    finally:
        connection.terminate()


class Pool:
    """Connections for what is done now and then; those that stay idle are closed."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._idle: list[Sender] = []
        self._timer: asyncio.TimerHandle | None = None

    async def fetch(self, sql: str, *arguments: object) -> list[Record]:
        """Run one statement; see `Sender.fetch`."""
        sender = self._idle.pop() if self._idle else Sender(self._address)
        try:
            return await sender.fetch(sql, *arguments)
        finally:
            self._idle.append(sender)
            self._drop_later()

    def _drop_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_IDLE, self.drop)

    def drop(self) -> None:
        """Close what is idle; on the server, too, nothing is lost by that."""
        if self._timer is not None:
            self._timer.cancel()
        while self._idle:
            self._idle.pop().terminate()


async def send(
    pieces: Iterable[Sequence[T]], send_piece: Callable[[Sequence[T]], Awaitable[Sequence[Outcome]]]
) -> list[Outcome]:
    """Send pieces one after the other, each in a transaction of its own; one outcome per message.

    Of a piece that was refused every message is sent by itself, so that it fails only its own.
    What comes behind a lost connection is not sent.
    """
    waiting = deque(pieces)
    outcomes: list[Outcome] = []
    while waiting:
        piece = waiting.popleft()
        try:
            outcomes.extend(await send_piece(piece))
        except BackendUnavailableError as error:
            unsent = _unsent(error)
            outcomes.extend(error if error.maybe_published else unsent for _ in piece)
            outcomes.extend(unsent for later in waiting for _ in later)
            break
        except BackendError as error:
            if len(piece) == 1:
                outcomes.append(error)
            else:
                waiting.extendleft([one] for one in reversed(piece))
    return outcomes


def _unsent(error: BackendUnavailableError) -> BackendUnavailableError:
    what = str(error).rpartition("; ")[0] if error.maybe_published else str(error)
    unsent = BackendUnavailableError(f"{what}; nothing was published")
    unsent.__cause__ = error
    return unsent
