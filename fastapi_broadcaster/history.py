"""Reading the log: replay (history, resume and catch-up are one loop) and pages."""

import asyncio
import heapq
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Generic

from pydantic import BaseModel, Field
from typing_extensions import TypeVar

from fastapi_broadcaster._buffer import Lost
from fastapi_broadcaster._ids import Ids
from fastapi_broadcaster._inbox import Inbox
from fastapi_broadcaster.backends.base import HistoryBackend
from fastapi_broadcaster.deliveries import Delivery, View
from fastapi_broadcaster.exceptions import (
    BackendUnavailableError,
    ConnectionLostError,
    HistoryLostError,
    PageError,
)
from fastapi_broadcaster.messages import Cursor, Event, Gap, History, behind
from fastapi_broadcaster.serializers import Codec

T = TypeVar("T", default=str)
_Found = tuple[Sequence[Delivery | Lost], bool]
_Read = Callable[[str], Coroutine[Any, Any, _Found]]
_READS = 8  # at once per process
_PAUSE = 0.1  # seconds before a page is read again after a failure
MAX_LIMIT = 1_000


class Page(BaseModel, Generic[T]):
    """A page of a channel's log, oldest first.

    `previous` is the id to pass as `before` for older events, `next` the one to pass as `after`
    for newer ones; each is None when there are none at the time of reading.
    """

    items: list[Event[T]]
    next: str | None = Field(None, description="Pass it as `after` for newer events")
    previous: str | None = Field(None, description="Pass it as `before` for older events")


class Log:
    """The backend's log as deliveries, with a bound on the reads at once."""

    def __init__(
        self, backend: HistoryBackend, wait_open: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        self._backend = backend
        self._slots = asyncio.Semaphore(_READS)
        self.wait_open = wait_open
        ids = Ids(backend)
        self.format = ids.format
        self.parse = ids.parse

    async def read(
        self,
        channel: str,
        *,
        after: Cursor | None = None,
        before: Cursor | None = None,
        since: datetime | None = None,
        limit: int,
    ) -> list[Delivery]:
        """See `HistoryBackend.history`."""
        async with self._slots:
            messages = await self._backend.history(
                channel, after=after, before=before, since=since, limit=limit
            )
        deliveries: list[Delivery] = []
        cursor: Cursor = after or {}
        for message in messages:
            assert message.position is not None
            cursor = message.cursor or behind(message.position, cursor)
            deliveries.append(Delivery(message, cursor, self.format))
        return deliveries

    async def page(
        self, channel: str, codec: Codec[T], *, limit: int, before: str | None, after: str | None
    ) -> Page[T]:
        """Read one page for a user; ids that are not of this log raise `HistoryLostError`."""
        if not 1 <= limit <= MAX_LIMIT:
            raise PageError(f"limit must be 1 to {MAX_LIMIT}, not {limit}")
        before, after = before or None, after or None  # a URL's `?before=` stands for none
        if before is not None and after is not None:
            raise PageError("give before= or after=, not both")
        place = before if before is not None else after
        cursor = self.parse(channel, place) if place is not None else None
        found = await self.read(
            channel,
            after=cursor if after is not None else None,
            before=cursor if before is not None else None,
            limit=limit + 1,
        )
        more = len(found) > limit
        chosen = found[:limit] if after is not None else found[-limit:]
        older, newer = (True, more) if after is not None else (more, before is not None)
        events = [view.event for one in chosen if isinstance(view := one.view(codec), View)]
        return Page[T](
            items=events,
            previous=self.format(channel, chosen[0].cursor) if chosen and older else None,
            next=self.format(channel, chosen[-1].cursor) if chosen and newer else None,
        )


class Replay:
    """Brings one inbox from its cursor to the live stream, without a seam.

    A round: go live with an empty buffer, read a page behind the cursor, deliver it. A full page,
    or an overflow meanwhile, means another round; a short page means that what is live from the
    first step on is all the rest. Cursors move only when something is handed on.
    """

    def __init__(self, inbox: Inbox, log: Log, *, size: int) -> None:
        self._inbox = inbox
        self._targets = inbox.targets
        self._log = log
        self._buffer_size = size
        self._reading: asyncio.Future[None] | None = None

    @property
    def _names(self) -> list[str]:
        return [target.name for target in self._targets]

    @property
    def _size(self) -> int:
        """How many messages of each channel are read at once."""
        return max(1, self._buffer_size // max(1, len(self._names)))

    async def start(self, history: History | None, after: str | None) -> None:
        """Prepare what was asked for at `subscribe`.

        An id that is not ours counts as none; one that does not tell of a channel, because none of
        its history had been handed on, leaves that channel to begin anew.
        """
        cursors, begin = self._targets.cursors, self._beginning(history)
        known: dict[str, Cursor] = {}
        reset: HistoryLostError | None = None
        pending: set[str] = set()
        if after is not None:
            try:
                known = self._targets.parse(after, self._log.parse)
            except HistoryLostError as error:
                reset = error
                pending.update(self._names)
        cursors.update(known)

        async def read(name: str) -> _Found:
            if name in known:
                return await self._read_on(name)
            page, more = await begin(name)
            if page:
                pending.add(name)
            if reset is not None:
                gap = Gap(name, reset.reason, reset.missed)
                page = [Lost(gap, None if page else cursors.get(name)), *page]
            return page, more

        await self._run(read, self._targets.version)
        self._targets.pending = pending

    def _beginning(self, history: History | None) -> _Read:
        match history:
            case None | 0:
                return self._nothing
            case "all":
                return self._oldest
            case int():
                return lambda name: self._newest(name, history)
            case timedelta():
                since = datetime.now(UTC) - history
                return lambda name: self._since(name, since)

    async def round(self) -> None:
        """One round behind the cursors; returns early, with nothing moved, when cancelled."""
        version = self._targets.version  # now, not when the task begins
        reading = self._reading = asyncio.ensure_future(self._run(self._read_on, version))
        try:
            await asyncio.wait([reading])
        finally:
            reading.cancel()
            self._reading = None
        if not reading.cancelled():
            reading.result()

    def cancel(self) -> None:
        """End the round that is under way, as the stream has ended."""
        if self._reading is not None:
            self._reading.cancel()

    async def _run(self, read: _Read, version: int) -> None:
        while True:
            self._inbox.begin_round()
            try:
                found = [await read(name) for name in self._names]
                break
            except (ConnectionLostError, BackendUnavailableError):
                await asyncio.sleep(_PAUSE)
                await self._log.wait_open()
        if version != self._targets.version:  # the channels are others now: again, for them
            return self._inbox.end_round([], more=True)
        pages = [[one for one in page if isinstance(one, Delivery)] for page, _ in found]
        lost = [one for page, _ in found for one in page if isinstance(one, Lost)]
        more = any(more for _, more in found)
        self._inbox.end_round([*lost, *_merge(pages)], more=more)

    async def _read_on(self, name: str) -> _Found:
        cursor = self._targets.cursors.get(name, {})
        try:
            page = await self._log.read(name, after=cursor, limit=self._size)
        except HistoryLostError as error:
            return [Lost(Gap(name, error.reason, error.missed), error.kept)], True
        return page, len(page) >= self._size

    async def _nothing(self, name: str) -> _Found:
        return [], False

    async def _oldest(self, name: str) -> _Found:
        page = await self._log.read(name, after={}, limit=self._size)
        return page, len(page) >= self._size

    async def _newest(self, name: str, count: int) -> _Found:
        """The oldest page of the newest `count` messages; the rest is left to further rounds."""
        page = await self._log.read(name, limit=min(count, self._size))
        oldest, found = page, len(page)
        while found < count and len(page) == self._size:
            before = oldest[0].cursor
            page = await self._log.read(name, before=before, limit=min(count - found, self._size))
            found += len(page)
            if page:
                oldest = page
        return oldest, found > len(oldest)

    async def _since(self, name: str, since: datetime) -> _Found:
        page = await self._log.read(name, since=since, limit=self._size)
        return page, len(page) >= self._size


def _merge(pages: Sequence[Iterable[Delivery]]) -> Iterable[Delivery]:
    """One order for the pages of several channels: by position."""
    if len(pages) == 1:
        return pages[0]
    return heapq.merge(*pages, key=lambda delivery: delivery.message.position or ("", 0))
