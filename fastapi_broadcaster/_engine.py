"""One connected life of a broadcaster: its hub, its tasks, and the order they come and go in."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastapi_broadcaster import _names
from fastapi_broadcaster._capabilities import check_options, no_log, publish_in
from fastapi_broadcaster._hooks import Hooks
from fastapi_broadcaster._hub import Entry, Hub
from fastapi_broadcaster._ids import Ids
from fastapi_broadcaster._listener import Backoff, Listener
from fastapi_broadcaster._options import Options, check_number
from fastapi_broadcaster._publisher import Publishers
from fastapi_broadcaster._targets import Target
from fastapi_broadcaster.backends.base import Backend, HistoryBackend, PatternBackend
from fastapi_broadcaster.exceptions import (
    BackendUnavailableError,
    GapReason,
    MessageTooLargeError,
    NotConnectedError,
)
from fastapi_broadcaster.health import Health, HealthHook
from fastapi_broadcaster.history import Log, Replay
from fastapi_broadcaster.messages import Gap, Message, Receipt
from fastapi_broadcaster.subscribers import Subscriber

logger = logging.getLogger("fastapi_broadcaster")
LIVE = "~live"


@dataclass(slots=True, frozen=True, kw_only=True)
class Settings:
    """What a broadcaster was made with; seconds, messages and bytes."""

    connect_timeout: float = 10.0
    publish_timeout: float = 5.0
    subscribe_timeout: float = 10.0
    max_message_size: int = 1_048_576
    buffer_size: int = 1_024
    linger: float = 1.0
    inline_sends: bool = True
    backoff: Backoff = field(default_factory=Backoff)
    on_disconnect: HealthHook | None = None
    on_reconnect: HealthHook | None = None

    def __post_init__(self) -> None:
        for name in ("connect_timeout", "publish_timeout", "subscribe_timeout", "linger"):
            check_number(name, getattr(self, name), float, least=0)
        for name in ("max_message_size", "buffer_size"):
            check_number(name, getattr(self, name), int, least=1)
        for name in ("on_disconnect", "on_reconnect"):
            if not callable(hook := getattr(self, name)) and hook is not None:
                raise TypeError(f"{name}= is a function of the Health, not {hook!r}")


class _Draining(Exception):
    """Streams are being ended: a newcomer gets one that has ended already."""


class Engine:
    """Made by `connect`, thrown away by `disconnect`; belongs to one event loop."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self.backend = backend
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self.entries = 1  # who needs it: blocks and lifespans, and `connect()` if that made it
        self.draining = False
        self._drained = 0.0  # when
        self.stalled = 0
        self.hub = Hub(
            linger=settings.linger,
            format=Ids(backend).format if isinstance(backend, HistoryBackend) else None,
            tags_patterns=isinstance(backend, PatternBackend) and backend.tags_patterns,
            wanted_changed=lambda entry: self.listener.reconciler.wanted_changed(entry),
        )
        self.listener = Listener(backend, self.hub, backoff=settings.backoff)
        self.listener.reconciler.watch(self.hub)
        self.hooks = Hooks()
        self.listener.lost = lambda: self.hooks.call(settings.on_disconnect, self.health())
        self.listener.restored = lambda: self.hooks.call(settings.on_reconnect, self.health())
        self.publishers = Publishers(backend, self.listener, timeout=settings.publish_timeout)
        self.listener.caught_up = self.publishers.caught_up
        self.log: Log | None = None
        if isinstance(backend, HistoryBackend):
            self.log = Log(backend, self.listener.wait_open)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect and listen; raises `BackendUnavailableError` within `connect_timeout`."""
        try:
            async with asyncio.timeout(self.settings.connect_timeout):
                await self.backend.connect()
                self._tasks = [
                    self.loop.create_task(work.run(), name=f"broadcaster-{name}")
                    for name, work in (
                        ("listen", self.listener),
                        ("reconcile", self.listener.reconciler),
                    )
                ]
                await self.listener.wait_open()
        except BaseException as error:
            cause = self.listener.last_error or error
            await self.stop()
            if isinstance(error, TimeoutError):
                raise BackendUnavailableError(
                    f"{self.backend} did not answer within {self.settings.connect_timeout:g} s"
                ) from cause
            raise

    async def stop(self) -> None:
        """End everything in the order that loses nothing; nothing is left."""
        gone = NotConnectedError("the broadcaster was disconnected")
        self.hub.close(gone)
        self.listener.close(BackendUnavailableError("the broadcaster was disconnected"))
        try:
            await self.publishers.close()
            running = set(self._tasks)
            while running:  # more than once: `wait_for` of Python 3.11 can swallow a cancellation
                for task in running:
                    task.cancel()
                _, running = await asyncio.wait(running, timeout=0.5)
            await self.hooks.close()
        finally:
            await self.backend.disconnect()
        for task in self._tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.error("%s: a task had failed", self.backend, exc_info=error)

    def drain(self) -> "asyncio.Future[None]":
        """End every stream at once, and every one that is opened from now on.

        The future is done when all of them have gone.
        """
        gone = self.loop.create_future()
        self.hub.when_empty(gone)
        if not self.draining:
            self.draining, self._drained = True, time.time()
        self.hub.end(_Draining(), draining=True)
        return gone

    def health(self) -> Health:
        listener = self.listener
        return Health(
            state="draining" if self.draining else listener.state,
            backend=str(self.backend),
            since=datetime.fromtimestamp(self._drained or listener.since, UTC),
            last_error=str(listener.last_error) if listener.last_error is not None else None,
            subscribers=len(self.hub.subscribers),
            lag=max((one.inbox.waiting for one in list(self.hub.subscribers)), default=0),
            reconnects=listener.reconnects,
            stalled=self.stalled,
        )

    @property
    def needed_log(self) -> Log:
        """The log; raises `UnsupportedError` where there is none."""
        if self.log is None:
            raise no_log(self.backend)
        return self.log

    async def publish(self, message: Message, connection: object | None) -> Receipt:
        """See `Channel.publish`."""
        if len(message.data) > self.settings.max_message_size:
            raise MessageTooLargeError(
                f"{len(message.data):,} bytes are more than the "
                f"{self.settings.max_message_size:,} that a message may have"
            )
        if connection is not None:
            return await publish_in(self.backend, connection, message)
        position = await self.publishers.of(message.channel).publish(message)
        if position is None or self.log is None:
            return Receipt(channel=message.channel)
        id = self.log.format(message.channel, dict([position]))
        return Receipt(channel=message.channel, id=id)

    async def open(
        self, targets: tuple[Target, ...], options: Options
    ) -> tuple[Subscriber[Any], Callable[[], None]]:
        """Make a live subscriber and the function that closes it."""
        subscriber = self._subscriber(targets, options)
        if self.draining:
            subscriber.inbox.end(draining=True)
            return subscriber, lambda: None
        entries = self.hub.acquire(targets)
        try:
            async with asyncio.timeout(self.settings.subscribe_timeout):
                await _all_ready(entries)
                self.hub.join(subscriber, entries)
                await self._begin(subscriber, options)
        except _Draining:
            subscriber.inbox.end(draining=True)
        except BaseException as error:
            self.hub.release(entries, subscriber)
            if isinstance(error, TimeoutError):
                raise BackendUnavailableError(
                    f"{self.backend} was not reachable within "
                    f"{self.settings.subscribe_timeout:g} s; nothing was subscribed"
                ) from self.listener.last_error
            raise

        def close() -> None:
            self.hub.release(self.hub.subscribers.get(subscriber, entries), subscriber)
            subscriber.inbox.end()
            self.stalled += subscriber.stalled

        return subscriber, close

    async def add(self, subscriber: Subscriber[Any], target: Target, options: Options) -> None:
        """Let a subscriber hear one more channel: a guest subscribes, then hands all over."""
        if subscriber.targets.has_pattern:
            raise TypeError("a subscriber of a pattern cannot hear channels besides")
        self.backend.check_name(_names.check_name(target.name))
        check_options(self.backend, (target,), options)
        guest, close = await self.open((target,), options)
        heard = target.name in subscriber.targets
        if guest.inbox.ended or subscriber.inbox.ended or heard:
            return close()
        subscriber.inbox.adopt(guest.inbox)
        self.hub.move(guest, subscriber)

    def remove(self, subscriber: Subscriber[Any], channel: str) -> None:
        """Let a subscriber hear a channel no more."""
        subscriber.inbox.forget(channel)
        if subscriber in self.hub.subscribers:
            self.hub.leave(subscriber, channel)

    def _subscriber(self, targets: tuple[Target, ...], options: Options) -> Subscriber[Any]:
        logged = self.log is not None and not any(target.is_pattern for target in targets)
        return Subscriber(
            targets,
            membership=self,
            buffer_size=options.buffer_size or self.settings.buffer_size,
            overflow=options.overflow or ("catch_up" if logged else "drop_oldest"),
            on_invalid=options.on_invalid,
            format=self.log.format if self.log is not None and logged else None,
            inline_sends=self.settings.inline_sends,
        )

    async def _begin(self, subscriber: Subscriber[Any], options: Options) -> None:
        """Start with what was asked for: history, a resumed place, or the gap before now."""
        if self.log is not None and not any(target.is_pattern for target in subscriber.targets):
            size = options.buffer_size or self.settings.buffer_size
            replay = Replay(subscriber.inbox, self.log, size=size)
            subscriber.inbox.replay = replay
            history = 1 if options.latest else options.history
            if history is not None or options.after is not None:
                await replay.start(history, options.after)
        elif options.after is not None:
            reason: GapReason = "reconnected" if options.after == LIVE else "reset"
            subscriber.inbox.begin_round()
            gaps = [Gap(target.name, reason) for target in subscriber.targets]
            subscriber.inbox.end_round(gaps, more=False)


async def _all_ready(entries: tuple[Entry, ...]) -> None:
    """Wait until all are live at once: while one is awaited another may be lost again."""
    while True:
        for entry in entries:
            await entry.wait_ready()
        if all(entry.ready.done() for entry in entries):
            return
