"""One connected life of a broadcaster: its hub, its tasks, and the order they come and go in."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastapi_broadcaster._hub import Entry, Hub
from fastapi_broadcaster._listener import Backoff, Listener, State
from fastapi_broadcaster._options import Options
from fastapi_broadcaster._publisher import Publisher
from fastapi_broadcaster._targets import Target
from fastapi_broadcaster.backends.base import Backend, HistoryBackend, PatternBackend
from fastapi_broadcaster.exceptions import BackendUnavailableError, GapReason, NotConnectedError
from fastapi_broadcaster.history import Log, Replay
from fastapi_broadcaster.messages import Gap
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


@dataclass(slots=True, frozen=True)
class Health:
    """How a broadcaster is: `since` when it is in that state, `last_error` what was lost last."""

    state: State
    backend: str
    since: datetime
    last_error: str | None = None
    subscribers: int = 0
    reconnects: int = 0


class _Draining(Exception):
    """Streams are being ended: a newcomer gets one that has ended already."""


class Engine:
    """Made by `connect`, thrown away by `disconnect`; belongs to one event loop."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self.backend = backend
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self.draining = False
        self.hub = Hub(
            linger=settings.linger,
            format=backend.format if isinstance(backend, HistoryBackend) else None,
            tags_patterns=isinstance(backend, PatternBackend) and backend.tags_patterns,
            wanted_changed=lambda: self.listener.reconciler.wanted_changed(),
        )
        self.listener = Listener(backend, self.hub, backoff=settings.backoff)
        self.listener.reconciler.watch(self.hub)
        self.publisher = Publisher(backend, self.listener, timeout=settings.publish_timeout)
        self.listener.caught_up = self.publisher.caught_up
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
            await self.publisher.close()
            running = set(self._tasks)
            while running:  # more than once: `wait_for` of Python 3.11 can swallow a cancellation
                for task in running:
                    task.cancel()
                _, running = await asyncio.wait(running, timeout=0.5)
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
        self.draining = True
        self.hub.end(_Draining(), draining=True)
        return gone

    def health(self) -> Health:
        listener = self.listener
        return Health(
            "draining" if self.draining else listener.state,
            str(self.backend),
            datetime.fromtimestamp(listener.since, UTC),
            str(listener.last_error) if listener.last_error is not None else None,
            len(self.hub.subscribers),
            listener.reconnects,
        )

    async def open(
        self, targets: tuple[Target, ...], options: Options
    ) -> tuple[Subscriber[Any], Callable[[], None]]:
        """Make a live subscriber and the function that closes it."""
        subscriber = self._subscriber(targets, options)
        if self.draining:
            subscriber.end(draining=True)
            return subscriber, lambda: None
        entries = self.hub.acquire(targets)
        try:
            async with asyncio.timeout(self.settings.subscribe_timeout):
                await _all_ready(entries)
                self.hub.join(subscriber, entries)
                await self._begin(subscriber, options)
        except _Draining:
            subscriber.end(draining=True)
        except BaseException as error:
            self.hub.release(entries, subscriber)
            if isinstance(error, TimeoutError):
                raise BackendUnavailableError(
                    f"{self.backend} was not reachable within "
                    f"{self.settings.subscribe_timeout:g} s; nothing was subscribed"
                ) from self.listener.last_error
            raise

        def close() -> None:
            self.hub.release(entries, subscriber)
            subscriber.end()

        return subscriber, close

    def _subscriber(self, targets: tuple[Target, ...], options: Options) -> Subscriber[Any]:
        logged = self.log is not None and not any(target.is_pattern for target in targets)
        return Subscriber(
            targets,
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
            replay = Replay(subscriber, self.log, size=size)
            subscriber.refill = replay.round
            history = 1 if options.latest else options.history
            if history is not None or options.after is not None:
                await replay.start(history, options.after)
        elif options.after is not None:
            reason: GapReason = "reconnected" if options.after == LIVE else "reset"
            subscriber.begin_round()
            gaps = [Gap(target.name, reason) for target in subscriber.targets]
            subscriber.end_round(gaps, more=False)


async def _all_ready(entries: tuple[Entry, ...]) -> None:
    """Wait until all are live at once: while one is awaited another may be lost again."""
    while True:
        for entry in entries:
            await entry.wait_ready()
        if all(entry.ready.done() for entry in entries):
            return
