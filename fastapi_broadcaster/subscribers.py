"""Subscriber: one reader of one or several channels."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import replace
from typing import Any, Generic, Protocol, Self, overload

from typing_extensions import TypeVar

from fastapi_broadcaster._buffer import Item, Overflow
from fastapi_broadcaster._inbox import Inbox
from fastapi_broadcaster._options import OnInvalid, Options
from fastapi_broadcaster._targets import Source, Target, Targets, target_of
from fastapi_broadcaster.deliveries import Format, View
from fastapi_broadcaster.exceptions import SerializationError, Unsubscribed
from fastapi_broadcaster.messages import Event, Gap, History

T = TypeVar("T", default=str)


class Membership(Protocol):
    """What changes the channels of a subscriber: the engine."""

    @property
    def backend(self) -> object: ...
    async def add(
        self, subscriber: "Subscriber[Any]", target: Target, options: Options
    ) -> None: ...
    def remove(self, subscriber: "Subscriber[Any]", channel: str) -> None: ...


class Subscriber(Generic[T]):
    """Receives the events of its channels, in order, through a bounded buffer.

    Made by `subscribe()` and `Depends(subscriber(...))`, never by hand. `async for event in
    subscriber` skips gaps and counts them in `gaps`; `stream()` yields them too. There is one
    reader at a time: a second concurrent one is a `RuntimeError`. A cancelled `get()` loses
    nothing.
    """

    def __init__(
        self,
        targets: Iterable[Target],
        *,
        buffer_size: int,
        overflow: Overflow,
        membership: Membership | None = None,
        on_invalid: OnInvalid = "skip",
        format: Format | None = None,
        inline_sends: bool = True,
    ) -> None:
        self.targets = Targets(targets, format)
        self.gaps = 0
        """How many gaps the reader has passed."""
        self.invalid = 0
        """How many messages were skipped because they did not fit the type."""
        self.stalled = False
        """Whether its client was given up, because it took nothing for `send_timeout`."""
        self.inline_sends = inline_sends
        self._membership = membership
        self.inbox = Inbox(self.targets, buffer_size, overflow, self.flush)
        self._on_invalid: OnInvalid = on_invalid
        self._predicates: list[Callable[[Event[T]], bool]] = []
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Callable[[], None] | None = None
        self._reading = False

    @classmethod
    def failed(cls, targets: Iterable[Target], error: Exception) -> "Subscriber[T]":
        """A subscriber that never came to be: whoever reads it gets the error."""
        subscriber: Subscriber[T] = cls(targets, buffer_size=1, overflow="drop_oldest")
        subscriber.inbox.end(error)
        return subscriber

    # -- what a user sees -------------------------------------------------------------------

    @property
    def channels(self) -> tuple[str, ...]:
        """The names, and patterns, that this subscriber hears."""
        return tuple(target.name for target in self.targets)

    @property
    def cursor(self) -> str | None:
        """The id behind everything handed to the reader, and never further.

        `subscribe(..., after=cursor)` on the same channels goes on there. None on a backend
        without a log, for patterns, and while history waits that was not yet handed on.
        """
        return self.targets.id()

    async def get(self) -> Event[T]:
        """Wait for the next event; gaps are counted and skipped.

        Raises `Unsubscribed` at the end of the subscription, `SlowSubscriberError` with
        `overflow="close"`, `SerializationError` with `on_invalid="raise"`.
        """
        while isinstance(item := self._ready() or await self._next(), Gap):
            pass
        return item.event

    async def stream(self) -> AsyncGenerator[Event[T] | Gap]:
        """Yield events, and a `Gap` at each place where messages may be missing."""
        try:
            while True:
                item = self._ready() or await self._next()
                yield item if isinstance(item, Gap) else item.event
        except Unsubscribed:
            return

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event[T]:
        try:
            while isinstance(item := self._ready() or await self._next(), Gap):
                pass
            return item.event
        except Unsubscribed:
            raise StopAsyncIteration from None

    def filter(self, predicate: Callable[[Event[T]], bool]) -> Self:
        """Skip the events for which `predicate(event)` is false; returns the same subscriber."""
        self._predicates.append(predicate)
        return self

    @overload
    async def add(
        self: "Subscriber[str]",
        channel: str,
        *,
        history: History | None = None,
        after: str | None = None,
        latest: bool = False,
    ) -> None: ...
    @overload
    async def add(
        self,
        channel: Source[T],
        *,
        history: History | None = None,
        after: str | None = None,
        latest: bool = False,
    ) -> None: ...
    async def add(
        self,
        channel: str | Source[Any],
        *,
        history: History | None = None,
        after: str | None = None,
        latest: bool = False,
    ) -> None:
        """Hear one more channel: all that is published on it from then on, as with `subscribe`.

        A name or a `Channel`; the options are those of `subscribe`, for this channel alone. Does
        nothing for a channel that is heard already, and where an error or a shutdown has ended the
        stream, which its reader is told. Raises what `subscribe` raises, `TypeError` for a
        subscriber of a pattern, `Unsubscribed` for one that was left. From the second channel on,
        ids are those of several channels: one from before cannot be resumed from with all of them
        (gap "reset").
        """
        options = Options(history=history, after=after, latest=latest)
        if self.closed:
            raise Unsubscribed("the subscription has ended: it hears no more channels")
        if self._membership is not None:
            target = target_of(channel, self._membership.backend)
            if target.name not in self.targets:
                await self._membership.add(self, target, options)

    def remove(self, channel: str | Source[object]) -> None:
        """Hear a channel no more: what waits of it is dropped, and `cursor` forgets it.

        Does nothing for a channel that is not heard, also when the subscription has ended. Raises
        `TypeError` for a subscriber of a pattern.
        """
        if self.targets.has_pattern:
            raise TypeError("a subscriber of a pattern cannot let go of channels")
        if self._membership is not None:
            name = target_of(channel, self._membership.backend).name
            if name in self.targets:
                self._membership.remove(self, name)

    @property
    def closed(self) -> bool:
        """Whether the subscription was left: neither draining nor an error ended it."""
        inbox = self.inbox
        return inbox.ended and inbox.error is None and not inbox.draining

    # -- what streams use -------------------------------------------------------------------

    def flush(self) -> None:
        """Let the reader go on, after a batch or a change of state."""
        if self._sink is not None:
            self._sink()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def attach(self, sink: Callable[[], None]) -> None:
        """Make `sink` the reader: it is called, synchronously, whenever there is work."""
        if self._sink is not None or self._reading:
            raise RuntimeError("this subscriber has a reader already")
        self._sink = sink

    def detach(self) -> None:
        self._sink = None

    def take(self) -> View[T] | Gap | None:
        """The next decoded message or gap, None when nothing waits; moves the cursor.

        Raises `SerializationError` with `on_invalid="raise"`.
        """
        targets, inbox = self.targets, self.inbox
        while True:
            item: Item | None
            if replayed := bool(inbox.page):
                item = inbox.turn()
            elif inbox.behind or (item := inbox.buffer.take()) is None:
                return None
            if isinstance(item, Gap):
                if item.reason == "reset" and not replayed:
                    targets.cursors.pop(item.channel, None)  # of a log that is no more
                self.gaps += 1
                return item
            if targets.advance(item, replayed=replayed):
                view = item.view(targets.codec_of(item.message.channel))
                if isinstance(view, View):
                    if targets.composite or len(item.cursor) > 1:
                        view = View(replace(view.event, id=targets.id()), view.frames, own=True)
                    if not self._predicates or self._is_wanted(view.event):
                        return view
                elif view is not None:
                    self.refuse(view)

    def _is_wanted(self, event: Event[T]) -> bool:
        return all(predicate(event) for predicate in self._predicates)

    def refuse(self, error: SerializationError) -> None:
        """Count a message that does not fit; raises it with `on_invalid="raise"`."""
        self.invalid += 1
        if self._on_invalid == "raise":
            self.inbox.end()
            self.inbox.error = error
            raise error

    def _ready(self) -> View[T] | Gap | None:
        """What waits for the one reader; it does not have to wait itself."""
        if self._reading or self._sink is not None:
            raise RuntimeError("this subscriber has a reader already")
        return self.take()

    async def _next(self) -> View[T] | Gap:
        """Wait for what comes next: nothing waits for the reader."""
        inbox = self.inbox
        while True:
            if inbox.ended:
                raise inbox.error or Unsubscribed("the subscription has ended")
            self._reading = True
            try:
                await (inbox.read_page() if inbox.behind else self._wait())
            finally:
                self._reading = False
            if (item := self.take()) is not None:
                return item

    async def _wait(self) -> None:
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            self._waiter = None
