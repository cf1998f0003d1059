"""What the RabbitMQ backends share: where the server is, connections to it, and its errors."""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import aiormq
from aiormq.abc import AbstractChannel, AbstractConnection
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from aiormq.exceptions import (
    AMQPChannelError,
    AuthenticationError,
    ChannelNotFoundEntity,
    InvalidFrameError,
    ProbableAuthenticationError,
)
from yarl import URL

from fastapi_broadcaster.backends._driver_logs import quieten
from fastapi_broadcaster.backends._reasons import reason as reason
from fastapi_broadcaster.exceptions import (
    BackendError,
    BackendUnavailableError,
    BroadcasterError,
    ConnectionLostError,
)

quieten("aiormq.channel", "aiormq.connection")

T = TypeVar("T")
NAME_BYTES = 255  # of a routing key, and of a queue's name
QUIET = 3.0  # seconds of silence before a probe, and again before the server counts as gone
REPLY = 5.0  # seconds to wait for an answer
_CLOSE = 1.0  # seconds to say goodbye
_TURNS = 5  # of the loop, in which the driver's tasks end after a connection was closed
_PORTS = {"amqp": 5672, "amqps": 5671}
_DRIVER_OPTIONS = frozenset(
    [
        "auth",
        "cadata",
        "cafile",
        "capath",
        "certfile",
        "heartbeat",
        "keyfile",
        "name",
        "no_verify_ssl",
    ]
)


def read_url(url: str, ours: Mapping[str, Callable[[str], Any]]) -> tuple["Server", dict[str, Any]]:
    """Take our own options out of a URL; the rest of it is the driver's own."""
    parts = urlsplit(url)
    options: dict[str, Any] = {}
    others: list[tuple[str, str]] = []
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name in ours:
            try:
                options[name] = ours[name](text)
            except ValueError:
                raise ValueError(f"{parts.scheme}://: {name}={text!r} is not a number") from None
        elif name in _DRIVER_OPTIONS:
            others.append((name, text))
        else:
            raise ValueError(f"{parts.scheme}://: unknown option {name!r} in the URL")
    return Server(urlunsplit(parts._replace(query=urlencode(others)))), options


class Server:
    """One RabbitMQ, or the cluster behind one address, and a vhost of it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        plain = parts._replace(scheme=parts.scheme.replace("-stream", ""))
        if plain.scheme not in _PORTS:
            raise ValueError("a RabbitMQ URL begins with amqp:// or amqps://")
        vhost = unquote(parts.path[1:]) or "/"
        where = f"{parts.hostname or 'localhost'}:{parts.port or _PORTS[plain.scheme]}"
        self._url = urlunsplit(plain)
        self._name = f"{parts.scheme}://{where} (vhost {vhost!r})"
        self._vhost = vhost
        self._is_secure = plain.scheme == "amqps"

    def __str__(self) -> str:
        return self._name

    @property
    def stream_name_bytes(self) -> int:
        """The server makes a folder of vhost, name and time, and hangs if that is too long."""
        return NAME_BYTES - len(self._vhost.encode()) - 21

    async def open(self) -> "Link":
        """Connect; raises `BackendUnavailableError`."""
        transport = _Transport(self._is_secure)
        try:
            async with asyncio.timeout(REPLY):
                connection = await aiormq.connect(self._url, transport_factory=transport)
        except BaseException as error:
            transport.abort()
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            if not isinstance(error, (Exception, asyncio.CancelledError)):
                raise
            raise self._refusal(error) from error
        return Link(self, connection, transport)

    def _refusal(self, error: BaseException) -> BackendUnavailableError:
        match error:
            case AuthenticationError() | ProbableAuthenticationError():
                return BackendUnavailableError(f"{self} refused the user or password")
            case InvalidFrameError() if "Connection.OpenOk" in str(error):
                return BackendUnavailableError(
                    f"{self} has no vhost {self._vhost!r}, or it is closed to this user"
                )
            case TimeoutError():
                return BackendUnavailableError(f"{self} did not answer within {REPLY:g} s")
            case _:
                return BackendUnavailableError(f"{self} is not reachable: {reason(error)}")

    async def reopen(self) -> "Link":
        """As `open`, where nothing has been sent yet; raises `ConnectionLostError`."""
        try:
            return await self.open()
        except BackendUnavailableError as error:
            raise ConnectionLostError(str(error)) from error

    @contextmanager
    def errors(self) -> Generator[None]:
        """Give the driver's errors our names: a refusal, or the loss of the connection."""
        try:
            yield
        except BroadcasterError:
            raise
        except AMQPChannelError as error:
            raise BackendError(f"{self}: {reason(error)}") from error
        except TimeoutError as error:
            raise ConnectionLostError(f"{self} did not answer within {REPLY:g} s") from error
        except asyncio.CancelledError as error:
            if is_cancelled():
                raise
            raise ConnectionLostError(f"{self}: the connection was closed") from error
        except Exception as error:  # the driver knows no common base
            raise ConnectionLostError(f"{self}: {reason(error)}") from error


class Link:
    """One connection, which `close` ends for sure."""

    def __init__(
        self, server: Server, connection: AbstractConnection, transport: "_Transport"
    ) -> None:
        self.server = server
        self._connection = connection
        self._transport = transport

    @property
    def version(self) -> str:
        """Of the server, as it says."""
        properties: Any = cast(Any, self._connection).server_properties
        return str(properties.get("version", ""))

    @property
    def is_open(self) -> bool:
        return self._connection.is_opened

    async def channel(self, *, confirms: bool = False) -> AbstractChannel:
        """Open a channel, with the driver's own errors."""
        async with asyncio.timeout(REPLY):
            return await self._connection.channel(publisher_confirms=confirms)

    def when_lost(self, call: Callable[[BaseException], None]) -> None:
        """Call, once, when the connection ends."""
        when_closed(self._connection, call)

    async def abort(self) -> None:
        """End it at once; what it has not answered yet is nobody's."""
        self._transport.abort()
        await asyncio.wait([closing_of(self._connection)], timeout=_CLOSE)
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Say goodbye, and end it even if nobody answers."""
        try:
            async with asyncio.timeout(_CLOSE):
                await self._connection.close(ConnectionResetError("the connection was closed"))
        except asyncio.CancelledError:
            if is_cancelled():
                raise
        except Exception:
            pass
        finally:
            self._transport.abort()
        await self.abort()


class _Transport(TransportFactory):
    """Makes the driver's connection, and keeps what can break it off."""

    def __init__(self, is_secure: bool) -> None:
        self._factory = TLSTransportFactory() if is_secure else TCPTransportFactory()
        self._writer: asyncio.StreamWriter | None = None

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, self._writer = await self._factory.create(url, **kwargs)
        return reader, self._writer

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


def closing_of(what: AbstractConnection | AbstractChannel) -> "asyncio.Future[Any]":
    """A future that is done when it is closed."""
    closing: asyncio.Future[Any] = cast(Any, what).closing  # whose type the driver leaves out
    return closing


def when_closed(
    what: AbstractConnection | AbstractChannel, call: Callable[[BaseException], None]
) -> None:
    """Call, once, with the reason when it is closed."""

    def ended(closing: "asyncio.Future[Any]") -> None:
        error = None if closing.cancelled() else closing.exception()
        call(error or ConnectionResetError("the connection was closed"))

    closing_of(what).add_done_callback(ended)


def is_cancelled() -> bool:
    """Whether a CancelledError is for this task: the driver ends what it waits for with one."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def is_missing(error: ChannelNotFoundEntity) -> bool:
    """Whether there is no such queue: else there is one, which does not run yet, or not now."""
    return "no queue" in reason(error)


async def within(call: Awaitable[T]) -> T:
    """Wait for an answer; the driver's own time-outs lose cancellations."""
    async with asyncio.timeout(REPLY):
        return await call
