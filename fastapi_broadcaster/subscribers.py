"""Subscriber: one reader of one or several channels."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Generic, Literal, Self

from typing_extensions import TypeVar

from fastapi_broadcaster._buffer import Buffer, Item, Overflow
from fastapi_broadcaster._targets import Target, Targets
from fastapi_broadcaster.deliveries import Delivery, View
from fastapi_broadcaster.exceptions import (
    SerializationError,
    SlowSubscriberError,
    Unsubscribed,
)
from fastapi_broadcaster.messages import Cursor, Event, Gap

T = TypeVar("T", default=str)
OnInvalid = Literal["skip", "raise"]


@dataclass(slots=True)
class Lost:
    """A gap that replay found; whoever was handed it stands at `cursor`, where there is one."""

    gap: Gap
    cursor: Cursor | None = None


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
        on_invalid: OnInvalid = "skip",
        format: Callable[[Cursor], str] | None = None,
        inline_sends: bool = True,
    ) -> None:
        self.targets = Targets(targets, format)
        self.gaps = 0
        """How many gaps the reader has passed."""
        self.invalid = 0
        """How many messages were skipped because they did not fit the type."""
        self.behind = False  # the rest is read from the log, not from the buffer
        self.live = False  # the hub may offer
        self.inline_sends = inline_sends
        self.ended = False
        self.draining = False
        self.error: Exception | None = None
        self.refill: Callable[[], Coroutine[None, None, None]] | None = None
        self._buffer = Buffer(buffer_size, overflow, self.targets.name_of)
        self._overflow: Overflow = overflow
        self._page: deque[Item | Lost] = deque()
        self._on_invalid: OnInvalid = on_invalid
        self._predicates: list[Callable[[Event[T]], bool]] = []
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Callable[[], None] | None = None
        self._refilling: asyncio.Future[None] | None = None
        self._reading = False

    @classmethod
    def failed(cls, targets: Iterable[Target], error: Exception) -> "Subscriber[T]":
        """A subscriber that never came to be: whoever reads it gets the error."""
        subscriber: Subscriber[T] = cls(targets, buffer_size=1, overflow="drop_oldest")
        subscriber.ended, subscriber.error = True, error
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
        while isinstance(item := await self._next(), Gap):
            pass
        return item.event

    async def stream(self) -> AsyncGenerator[Event[T] | Gap]:
        """Yield events, and a `Gap` at each place where messages may be missing."""
        try:
            while True:
                item = await self._next()
                yield item if isinstance(item, Gap) else item.event
        except Unsubscribed:
            return

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event[T]:
        try:
            while isinstance(item := await self._next(), Gap):
                pass
            return item.event
        except Unsubscribed:
            raise StopAsyncIteration from None

    def filter(self, predicate: Callable[[Event[T]], bool]) -> Self:
        """Skip the events for which `predicate(event)` is false; returns the same subscriber."""
        self._predicates.append(predicate)
        return self

    @property
    def closed(self) -> bool:
        """Whether the subscription was left: neither draining nor an error ended it."""
        return self.ended and self.error is None and not self.draining

    # -- what the hub and replay do ---------------------------------------------------------

    def offer(self, item: Item, touched: list["Subscriber[object]"]) -> None:
        """Put an item into the buffer; never blocks. Whoever must be flushed goes to `touched`."""
        if not self.live:
            return
        buffer = self._buffer
        if not buffer.items:
            touched.append(self)  # type: ignore[arg-type]  # read-only there
        if not buffer.put(item):
            self._spill()
            touched.append(self)  # type: ignore[arg-type]

    def _spill(self) -> None:
        self.live = False
        if self._buffer.overflow == "close":
            self.ended = True
            self.error = SlowSubscriberError(f"more than {self._buffer.size} messages behind")
        else:
            self._buffer.clear()
            self.behind = True

    def flush(self) -> None:
        """Let the reader go on, after a batch or a change of state."""
        if self._sink is not None:
            self._sink()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self, error: Exception | None = None, *, draining: bool = False) -> None:
        """End the stream: at once when draining, else when the reader has taken what waits."""
        if self.ended:
            return
        self.ended, self.live, self.error, self.draining = True, False, error, draining
        if error is None:
            self._page.clear()
            self._buffer.clear()
            self.behind = False
        if self._refilling is not None:
            self._refilling.cancel()
        self.flush()

    def begin_round(self) -> None:
        """Replay, step 1: go live with an empty buffer, whose overflow means another round."""
        self._buffer.clear()
        self._buffer.overflow = "catch_up"
        self.behind = True
        self.live = not self.ended

    def end_round(self, items: Iterable[Item | Lost], *, more: bool) -> None:
        """Replay, steps 3 and 4: what was read comes before whatever is live by now."""
        self._page.extend(items)
        self._buffer.overflow = self._overflow
        if more or not self.live:
            self.live = False
            self._buffer.clear()
            self.behind = not self.ended
        else:
            self._buffer.skip(self._replayed())
            self.behind = False
        self.flush()

    def _replayed(self) -> dict[tuple[str, str], int]:
        """How far each source of each channel has been read, or waits in the page."""
        reached = [*self.targets.cursors.items()]
        for item in self._page:
            if isinstance(item, Delivery):
                reached.append((item.message.channel, item.cursor))
            elif isinstance(item, Lost) and item.cursor is not None:
                reached.append((item.gap.channel, item.cursor))
        return {(name, source): key for name, cursor in reached for source, key in cursor.items()}

    # -- what streams use -------------------------------------------------------------------

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
        targets = self.targets
        while True:
            if replayed := bool(self._page):
                item: Item | Lost | None = self._page.popleft()
                if isinstance(item, Lost):
                    item = self._pass(item)
            elif self.behind or (item := self._buffer.take()) is None:
                return None
            if isinstance(item, Gap):
                if item.reason == "reset" and not replayed:
                    targets.cursors.pop(item.channel, None)  # of a log that is no more
                self.gaps += 1
                return item
            assert item is not None
            if targets.advance(item, replayed=replayed):
                view = item.view(targets.codec_of(item.message.channel))
                if isinstance(view, View):
                    if targets.composite:
                        view = View(replace(view.event, id=targets.id()), view.frames)
                    if not self._predicates or self._is_wanted(view.event):
                        return view
                elif view is not None:
                    self.refuse(view)

    def _pass(self, lost: Lost) -> Gap:
        if lost.cursor is not None:
            self.targets.cursors[lost.gap.channel] = lost.cursor
            self.targets.pending.discard(lost.gap.channel)
        return lost.gap

    def _is_wanted(self, event: Event[T]) -> bool:
        return all(predicate(event) for predicate in self._predicates)

    def refuse(self, error: SerializationError) -> None:
        """Count a message that does not fit; raises it with `on_invalid="raise"`."""
        self.invalid += 1
        if self._on_invalid == "raise":
            self.end()
            self.error = error
            raise error

    async def _next(self) -> View[T] | Gap:
        if self._reading or self._sink is not None:
            raise RuntimeError("this subscriber has a reader already")
        while True:
            if (item := self.take()) is not None:
                return item
            if self.ended:
                raise self.error or Unsubscribed("the subscription has ended")
            self._reading = True
            try:
                await (self.read_page() if self.behind else self._wait())
            finally:
                self._reading = False

    async def read_page(self) -> None:
        """Run a round of replay; returns early, with nothing moved, when the stream ends."""
        assert self.refill is not None
        reading = self._refilling = asyncio.ensure_future(self.refill())
        try:
            await asyncio.wait([reading])
        finally:
            reading.cancel()
            self._refilling = None
        if not reading.cancelled():
            reading.result()

    async def _wait(self) -> None:
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            self._waiter = None
