"""Inbox: what waits for one reader, from the log and from the hub, and how it ends."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from fastapi_broadcaster._buffer import Buffer, Item, Lost, Overflow, channel_of
from fastapi_broadcaster._targets import Targets
from fastapi_broadcaster.deliveries import Delivery
from fastapi_broadcaster.exceptions import SlowSubscriberError
from fastapi_broadcaster.messages import Gap


class Rounds(Protocol):
    """What reads the log for an inbox that is behind."""

    async def round(self) -> None: ...
    def cancel(self) -> None: ...


class Inbox:
    """Pages of the log first, then the live buffer, which is bounded.

    The hub offers and replay runs rounds; `wake` is called when the reader can go on, except by
    `offer`, which says so.
    """

    def __init__(
        self, targets: Targets, buffer_size: int, overflow: Overflow, wake: Callable[[], None]
    ) -> None:
        self.targets = targets
        self.wake = wake
        self.page: deque[Item | Lost] = deque()
        self.behind = False  # the rest is read from the log, not from the buffer
        self.live = False  # the hub may offer
        self.ended = False
        self.draining = False
        self.error: Exception | None = None
        self.replay: Rounds | None = None
        self.buffer = Buffer(buffer_size, overflow, targets.name_of)
        self._overflow: Overflow = overflow

    @property
    def waiting(self) -> int:
        """How many messages wait for the reader; those that wait in the log as a full buffer."""
        return len(self.page) + (self.buffer.size if self.behind else len(self.buffer.items))

    def offer(self, items: Sequence[Delivery]) -> bool:
        """Put messages into the buffer; never blocks. True when the reader must be woken."""
        if not self.live:
            return False
        idle = not self.buffer.items
        if self.buffer.extend(items):
            return idle
        self._spill()
        return True

    def tell(self, gap: Gap) -> bool:
        """Put a gap into the buffer, as `offer` does."""
        if not self.live:
            return False
        if gap.reason == "expired" and self.replay is not None:
            self._fall_behind()  # the log knows whether it is so behind what this reader has had
            return True
        idle = not self.buffer.items
        self.buffer.put(gap)
        return idle

    def _spill(self) -> None:
        if self.buffer.overflow == "close":
            self.live = False
            self.ended = True
            self.error = SlowSubscriberError(f"more than {self.buffer.size} messages behind")
        else:
            self._fall_behind()

    def _fall_behind(self) -> None:
        self.live = False
        self.buffer.clear()
        self.behind = not self.ended

    def turn(self) -> Item:
        """Take the next item of the page."""
        item = self.page.popleft()
        if isinstance(item, Lost):
            self.targets.leap(item.gap.channel, item.cursor)
            return item.gap
        return item

    def end(self, error: Exception | None = None, *, draining: bool = False) -> None:
        """End the stream: at once when draining, else when the reader has taken what waits."""
        if self.ended:
            return
        self.ended, self.live, self.error, self.draining = True, False, error, draining
        if error is None:
            self.page.clear()
            self.buffer.clear()
            self.behind = False
        if self.replay is not None:
            self.replay.cancel()
        self.wake()

    # -- replay -----------------------------------------------------------------------------

    async def read_page(self) -> None:
        """Read on in the log; returns early, with nothing moved, when the stream ends."""
        assert self.replay is not None
        await self.replay.round()

    def begin_round(self) -> None:
        """Step 1: go live with an empty buffer, whose overflow means another round."""
        self.buffer.clear()
        self.buffer.overflow = "catch_up"
        self.behind = True
        self.live = not self.ended

    def end_round(self, items: Iterable[Item | Lost], *, more: bool) -> None:
        """Steps 3 and 4: what was read comes before whatever is live by now."""
        if not self.ended or self.error is not None:
            self.page.extend(items)
        self.buffer.overflow = self._overflow
        if more or not self.live:
            self._fall_behind()
        else:
            self.buffer.skip(self._replayed())
            self.behind = False
        self.wake()

    def _replayed(self) -> dict[tuple[str, str], int]:
        """How far each source of each channel has been read, or waits in the page."""
        reached = [*self.targets.cursors.items()]
        for item in self.page:
            if not isinstance(item, Gap) and item.cursor is not None:
                reached.append((channel_of(item), item.cursor))
        return {(name, source): key for name, cursor in reached for source, key in cursor.items()}

    # -- other channels ---------------------------------------------------------------------

    def adopt(self, guest: "Inbox") -> None:
        """Go on with what another inbox hears, and with all that waits in it."""
        self.targets.join(guest.targets)
        self.page.extend(guest.page)
        if guest.behind:
            self._fall_behind()
        elif self.live and not self.buffer.merge(guest.buffer):
            self._spill()
        self.wake()

    def forget(self, channel: str) -> None:
        """Drop a channel, and all that waits of it."""
        self.targets.remove(channel)
        self.page = deque(item for item in self.page if channel_of(item) != channel)
        self.buffer.forget(channel)
