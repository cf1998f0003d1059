"""Broadcaster: connect, publish, subscribe, drain. Knows no web framework."""

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar, Self, overload

from typing_extensions import TypeForm, TypeVar, Unpack

from fastapi_broadcaster import _names
from fastapi_broadcaster._capabilities import check_options
from fastapi_broadcaster._engine import Engine, Settings
from fastapi_broadcaster._lifespan import lifespan
from fastapi_broadcaster._listener import Backoff
from fastapi_broadcaster._options import Options, SubscribeOptions
from fastapi_broadcaster._portal import Portal
from fastapi_broadcaster._targets import Target
from fastapi_broadcaster.backends import Backend, BroadcastBackend, choose_backend
from fastapi_broadcaster.backends.base import HistoryBackend
from fastapi_broadcaster.channels import Channel, ChannelTemplate, Subscription, targets_of
from fastapi_broadcaster.exceptions import NotConnectedError
from fastapi_broadcaster.health import Health, HealthHook
from fastapi_broadcaster.history import Page
from fastapi_broadcaster.messages import Message, Receipt
from fastapi_broadcaster.serializers import TEXT, Codec, encode_text
from fastapi_broadcaster.subscribers import Subscriber

T = TypeVar("T", default=str)
U = TypeVar("U")


class Broadcaster:
    """Realtime channels over one broker, named by a URL such as `memory://` or `redis://host`.

    `FastAPI(lifespan=broadcaster.lifespan)`, `async with broadcaster`, one inside the other too, or
    `connect()` and `disconnect()`; it can be connected again later, on any event loop. Time-outs
    and `linger` are in seconds, `buffer_size` in messages, `max_message_size` in bytes.
    `inline_sends=False` turns off that the hub writes to streams in their tasks' names.
    `on_disconnect` and `on_reconnect`, functions or coroutine functions of the `Health`, are
    called once when the broker is lost and once when all that was subscribed is live again.
    """

    startup_checks: ClassVar[list[Callable[["Broadcaster", Any], None]]] = []
    """Called with the broadcaster and the app when a lifespan begins, before it connects."""
    connected: ClassVar["weakref.WeakSet[Broadcaster]"] = weakref.WeakSet()

    def __init__(
        self,
        url: str | None = None,
        *,
        backend: Backend | BroadcastBackend | None = None,
        connect_timeout: float = 10.0,
        publish_timeout: float = 5.0,
        subscribe_timeout: float = 10.0,
        max_message_size: int = 1_048_576,
        buffer_size: int = 1_024,
        linger: float = 1.0,
        backoff: Backoff | None = None,
        handle_signals: bool = True,
        inline_sends: bool = True,
        on_disconnect: HealthHook | None = None,
        on_reconnect: HealthHook | None = None,
    ) -> None:
        self._make = partial(choose_backend, url, backend)
        self.backend = self._make()
        self._settings = Settings(
            connect_timeout=connect_timeout,
            publish_timeout=publish_timeout,
            subscribe_timeout=subscribe_timeout,
            max_message_size=max_message_size,
            buffer_size=buffer_size,
            linger=linger,
            inline_sends=inline_sends,
            backoff=backoff or Backoff(),
            on_disconnect=on_disconnect,
            on_reconnect=on_reconnect,
        )
        self._handle_signals = handle_signals
        self._engine: Engine | None = None
        self._portal = Portal(self, self._forget)
        self._left = datetime.now(UTC)

    def __repr__(self) -> str:
        return f"Broadcaster({str(self.backend)!r})"

    @property
    def has_history(self) -> bool:
        """Whether the backend keeps a log; known before connecting."""
        return isinstance(self.backend, HistoryBackend)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop it is connected on, None while it is not."""
        return self._engine.loop if self._engine is not None else None

    @property
    def entries(self) -> int:
        """How many blocks and lifespans are inside; `connect()` is one until `disconnect()`."""
        return self._engine.entries if self._engine is not None else 0

    # -- life -------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect on the running loop, until `disconnect()`; does nothing if it is connected there.

        Raises `BackendUnavailableError` within `connect_timeout`, `RuntimeError` while it is
        connected on another loop that still runs.
        """
        await self._connect()

    async def _connect(self, *, enter: bool = False) -> None:
        await self._portal.hand_over()
        if self.loop is not None and self.loop is not asyncio.get_running_loop():
            if not self.loop.is_closed():
                raise RuntimeError("the broadcaster is connected on another event loop")
            self._engine = None  # its loop went without a disconnect
        if self._engine is not None:
            self._engine.entries += enter
            return
        self._engine = engine = Engine(self.backend, self._settings)
        try:
            await engine.start()
        except BaseException:
            self._engine = None
            raise
        self.connected.add(self)

    async def disconnect(self) -> None:
        """End every stream and every task and leave the broker; idempotent.

        At once, also inside `async with` and lifespans, which disconnect when the last is left.
        """
        engine, self._engine = self._engine, None
        self._left = datetime.now(UTC)
        self.connected.discard(self)
        if engine is not None:
            await engine.stop()

    async def __aenter__(self) -> Self:
        """As `connect`; blocks may be inside one another, and inside a lifespan."""
        await self._connect(enter=True)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Disconnect if no other block or lifespan, and no `connect()`, needs the connection."""
        if (engine := self._engine) is not None:
            engine.entries -= 1
            if not engine.entries:
                await self.disconnect()

    def lifespan(self, app: Any) -> AbstractAsyncContextManager[None]:
        """`FastAPI(lifespan=broadcaster.lifespan)`: connect, serve, end the streams, disconnect.

        Sets `state.broadcaster` on the app and on the apps mounted in it, unless another
        broadcaster is there. On the main thread SIGTERM and SIGINT end the streams first.
        """
        for check in self.startup_checks:
            check(self, app)
        return lifespan(self, app, handle_signals=self._handle_signals)

    def drain(self) -> Awaitable[None]:
        """End every stream at once: SSE with `retry:`, WebSocket with 1012, `async for` by ending.

        Happens in the call; await the result to wait until all of them have gone. Streams that
        are opened from now on end at once too. Publishing goes on until `disconnect`.
        """
        if self._engine is not None:
            return self._engine.drain()
        gone = asyncio.get_running_loop().create_future()
        gone.set_result(None)
        return gone

    def health(self) -> Health:
        """How it is now, in any thread; never raises and never waits."""
        if (engine := self._engine) is not None:
            return engine.health()
        return Health(state="disconnected", backend=str(self.backend), since=self._left)

    # -- channels ---------------------------------------------------------------------------

    @overload
    def channel(self, channel: ChannelTemplate[T], /, **values: object) -> Channel[T]: ...
    @overload
    def channel(self, channel: str, /) -> Channel[str]: ...
    @overload
    def channel(self, channel: str, type: TypeForm[U], /) -> Channel[U]: ...
    def channel(
        self, channel: ChannelTemplate[Any] | str, type: Any = None, /, **values: object
    ) -> Channel[Any]:
        """A channel outside routes: of a template with its values, or by name (and type)."""
        if isinstance(channel, ChannelTemplate):
            return Channel(self, channel.format(**values), channel.codec)
        if values:
            raise TypeError(f"a plain channel name takes no values: {', '.join(values)}")
        return Channel(self, channel, TEXT if type is None else Codec(type))

    async def publish(
        self, channel: str, message: str | bytes, *, connection: object | None = None
    ) -> Receipt:
        """Publish text, or bytes, on a channel; see `Channel.publish` for typed ones."""
        return await self._publish(self.check_name(channel), encode_text(message), connection)

    def publish_sync(self, channel: str, message: str | bytes) -> Receipt:
        """As `publish`, for `def` handlers, threads and scripts; blocks the thread.

        Runs on the broadcaster's loop, or on one of its own if it is not connected. Raises
        `RuntimeError` on that loop's thread.
        """
        data = encode_text(message)
        return self._portal.run(lambda: self._publish(self.check_name(channel), data))

    @overload
    def subscribe(
        self, channel: str | Sequence[str], **options: Unpack[SubscribeOptions]
    ) -> Subscription[str]: ...
    @overload
    def subscribe(
        self, channel: Channel[U] | Sequence[Channel[U]], **options: Unpack[SubscribeOptions]
    ) -> Subscription[U]: ...
    @overload
    def subscribe(
        self, *, pattern: ChannelTemplate[U], **options: Unpack[SubscribeOptions]
    ) -> Subscription[U]: ...
    @overload
    def subscribe(
        self, *, pattern: str, **options: Unpack[SubscribeOptions]
    ) -> Subscription[str]: ...
    def subscribe(
        self,
        channel: "str | Channel[Any] | Sequence[str] | Sequence[Channel[Any]] | None" = None,
        *,
        pattern: ChannelTemplate[Any] | str | None = None,
        **options: Unpack[SubscribeOptions],
    ) -> Subscription[Any]:
        """`async with` the result to get a live `Subscriber`: all that is published from then on
        arrives, in order, once, or a gap tells where it may not.

        One channel, several (names or `Channel` objects), or a `pattern` (a glob, or a template
        to hear all its channels). `history=` N newest messages, "all" or a timedelta, then live;
        `after=` the id to go on behind; `latest=True` the last value, then live; `buffer_size=`
        messages; `overflow=` "catch_up" (the default on a log), "drop_oldest" (elsewhere),
        "drop_newest", "latest" or "close"; `on_invalid=` "skip" or "raise". Entering it waits up
        to `subscribe_timeout`, then raises `BackendUnavailableError`.
        """
        return Subscription(self, targets_of(self, channel, pattern), Options.of(options))

    # -- what channels ask for --------------------------------------------------------------

    def check_name(self, name: str) -> str:
        """Return the name if this backend can carry it, else raise `ChannelNameError`."""
        self.backend.check_name(name := _names.check_name(name))
        return name

    def check_options(self, targets: tuple[Target, ...], options: Options) -> None:
        """Raise `UnsupportedError` for what this backend cannot do."""
        check_options(self.backend, targets, options)

    async def publish_to(self, channel: Channel[T], message: T, connection: object) -> Receipt:
        return await self._publish(channel.name, channel.codec.dumps(message), connection)

    def publish_to_sync(self, channel: Channel[T], message: T) -> Receipt:
        data = channel.codec.dumps(message)
        return self._portal.run(lambda: self._publish(channel.name, data))

    async def _publish(self, channel: str, data: bytes, connection: object = None) -> Receipt:
        return await self._running().publish(Message(channel, data), connection)

    async def page_of(
        self, channel: Channel[T], *, limit: int, before: str | None, after: str | None
    ) -> Page[T]:
        log = self._running().needed_log
        return await log.page(channel.name, channel.codec, limit=limit, before=before, after=after)

    async def open(
        self, targets: tuple[Target, ...], options: Options
    ) -> tuple[Subscriber[Any], Callable[[], None]]:
        return await self._running().open(targets, options)

    def _forget(self) -> object:
        """Begin anew in a forked child; returns what is the parent's."""
        theirs = self._engine, self.backend
        self._engine, self.backend = None, self._make()
        return theirs

    def _running(self) -> Engine:
        if self._engine is None:
            raise NotConnectedError(
                "the broadcaster is not connected: use `async with broadcaster`, `connect()` "
                "or FastAPI(lifespan=broadcaster.lifespan)"
            )
        if self._engine.loop is not asyncio.get_running_loop():
            raise NotConnectedError("the broadcaster is connected on another event loop")
        return self._engine


Broadcast = Broadcaster
