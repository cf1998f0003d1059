"""The bounded buffer between the hub and one reader, and what happens when it is full."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from fastapi_broadcaster.deliveries import Delivery
from fastapi_broadcaster.messages import Cursor, Gap

Overflow = Literal["catch_up", "drop_oldest", "drop_newest", "latest", "close"]
OVERFLOWS: tuple[Overflow, ...] = ("catch_up", "drop_oldest", "drop_newest", "latest", "close")
Item = Delivery | Gap


@dataclass(slots=True)
class Lost:
    """A gap that replay found; whoever was handed it stands at `cursor`, where there is one."""

    gap: Gap
    cursor: Cursor | None = None


def channel_of(item: Item | Lost) -> str:
    """The channel that an item is about."""
    if isinstance(item, Delivery):
        return item.message.channel
    return item.gap.channel if isinstance(item, Lost) else item.channel


class Buffer:
    """At most `size` messages in order of arrival; one writer, one reader, never blocks.

    What is dropped is counted per channel, and a `Gap("slow")` with the exact number is taken at
    the place where the messages would have stood. Gaps do not count as messages.
    """

    __slots__ = (
        "_before",
        "_conflating",
        "_gaps",
        "_name_of",
        "_plain",
        "_replayed",
        "_skipped",
        "items",
        "overflow",
        "size",
    )

    def __init__(
        self, size: int, overflow: Overflow, name_of: Callable[[str], str] = lambda name: name
    ) -> None:
        self._name_of = name_of  # a channel's name, or the pattern through which it is heard
        self.size = size
        self.overflow: Overflow = overflow
        self.items: deque[Item] = deque()
        self._gaps = 0  # gaps among the items
        self._before: dict[tuple[str, str], Gap] = {}  # gaps that stand before the oldest item
        self._skipped: dict[str, int] = {}  # dropped behind the newest item, per channel
        self._conflating = False
        self._replayed: dict[tuple[str, str], int] = {}  # what the reader has from the log
        self._plain = True  # none of the above: the common case

    def extend(self, items: Sequence[Delivery]) -> bool:
        """Add messages, each as `put` does; False at the first that does not fit."""
        if self._plain and len(self.items) + len(items) <= self.size:
            self.items.extend(items)
            return True
        return all(self.put(item) for item in items)

    def put(self, item: Item) -> bool:
        """Add an item; False when it does not fit and the overflow is the reader's to settle."""
        self._plain = False
        if isinstance(item, Gap):
            self._settle_skipped()
            self._put_gap(item)
        elif self._replayed and self._was_replayed(item):
            return True
        elif len(self.items) - self._gaps >= self.size or self._conflating:
            return self._put_over(item)
        else:
            self._settle_skipped()
            self.items.append(item)
        return True

    def _put_gap(self, gap: Gap) -> None:
        """Tell it behind the newest message; once, however often it comes."""
        items = self.items
        at = len(items) - 1
        while at >= 0 and isinstance(told := items[at], Gap):
            if (told.channel, told.reason) == (gap.channel, gap.reason):
                items[at] = _sum(told, gap)
                return
            at -= 1
        items.append(gap)
        self._gaps += 1

    def _put_over(self, item: Delivery) -> bool:
        match self.overflow:
            case "drop_oldest":
                self._drop_oldest()
                self.items.append(item)
            case "drop_newest":
                name = self._name_of(item.message.channel)
                self._skipped[name] = self._skipped.get(name, 0) + 1
            case "latest":
                self._conflate(item)
            case _:
                return False
        return True

    def skip(self, replayed: dict[tuple[str, str], int]) -> None:
        """Let go of what the log gave, by channel and source up to a key, now and when it comes.

        The reader has it, so it takes no room here and is not missing.
        """
        items, self.items = self.items, deque()
        self._gaps = 0
        self._replayed = replayed
        self._plain = not replayed
        for item in items:
            self.put(item)

    def _was_replayed(self, item: Delivery) -> bool:
        if item.message.position is None:
            return False
        source, key = item.message.position
        origin = item.message.channel, source
        if key <= self._replayed.get(origin, -1):
            return True
        self._replayed.pop(origin, None)  # whatever comes from there is new from now on
        return False

    def _drop_oldest(self) -> None:
        while True:
            oldest = self.items.popleft()
            if isinstance(oldest, Gap):
                self._gaps -= 1
                self._tell_before(oldest)
            else:
                self._tell_slow(oldest)
                return

    def _conflate(self, item: Delivery) -> None:
        """Keep the newest message of each channel until the reader has caught up."""
        self._conflating = True
        waiting = [*self.items, item]
        newest: dict[str, Delivery] = {}
        for one in waiting:
            if isinstance(one, Delivery):
                newest.pop(one.message.channel, None)
                newest[one.message.channel] = one
        kept = list(newest.values())[-self.size :]
        self.items.clear()
        self._gaps = 0
        for one in waiting:
            if isinstance(one, Delivery):
                if one in kept:
                    self.items.append(one)
                else:
                    self._tell_slow(one)
            elif self.items:
                self._put_gap(one)
            else:
                self._tell_before(one)

    def _tell_before(self, gap: Gap) -> None:
        told = self._before.get((gap.channel, gap.reason))
        self._before[gap.channel, gap.reason] = gap if told is None else _sum(told, gap)

    def _tell_slow(self, dropped: Delivery) -> None:
        self._tell_before(Gap(self._name_of(dropped.message.channel), "slow", 1))

    def _settle_skipped(self) -> None:
        for channel, missed in self._skipped.items():
            self._put_gap(Gap(channel, "slow", missed))
        self._skipped.clear()

    def take(self) -> Item | None:
        """The oldest item, None when nothing waits."""
        if self._plain:
            return self.items.popleft() if self.items else None
        item = self._take_special()
        self._plain = not (
            self._before or self._gaps or self._skipped or self._conflating or self._replayed
        )
        return item

    def _take_special(self) -> Item | None:
        if self._before:
            return self._before.pop(next(iter(self._before)))
        if self.items:
            item = self.items.popleft()
            if self._gaps and isinstance(item, Gap):
                self._gaps -= 1
            if self._conflating and len(self.items) == self._gaps:
                self._conflating = False
            return item
        if self._skipped:
            channel = next(iter(self._skipped))
            return Gap(channel, "slow", self._skipped.pop(channel))
        return None

    def merge(self, other: "Buffer") -> bool:
        """Take over what another reader's buffer holds; False when it does not fit, as `put`."""
        if other._replayed:
            self._replayed = {**self._replayed, **other._replayed}
            self._plain = False
        fits = True
        while fits and (item := other.take()) is not None:
            fits = self.put(item)
        return fits

    def forget(self, channel: str) -> None:
        """Drop all that is about a channel, as if it had never been heard."""
        self.items = deque(item for item in self.items if channel_of(item) != channel)
        self._gaps = sum(isinstance(item, Gap) for item in self.items)
        self._before = {key: gap for key, gap in self._before.items() if key[0] != channel}
        self._replayed = {key: to for key, to in self._replayed.items() if key[0] != channel}
        self._skipped.pop(channel, None)

    def clear(self) -> None:
        """Forget everything; the caller knows another way to it."""
        self.items.clear()
        self._before.clear()
        self._skipped.clear()
        self._gaps = 0
        self._conflating = False
        self._replayed = {}
        self._plain = True


def _sum(told: Gap, more: Gap) -> Gap:
    """Two gaps of one channel and reason at one place are one."""
    total = None
    if told.missed is not None and more.missed is not None:
        total = told.missed + more.missed
    return Gap(told.channel, told.reason, total)
