"""The values that travel: messages on the wire, events and gaps for subscribers, receipts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic, Literal

from pydantic import BaseModel
from typing_extensions import TypeVar

from fastapi_broadcaster.exceptions import GapReason

T = TypeVar("T", default=str)

Position = tuple[str, int]
"""`(source, key)`: where a message stands. Keys of one source are comparable, sources are not."""

Cursor = Mapping[str, int]
"""Where a reader stands in a channel, source -> key; `{}` is the start of the log."""

History = int | Literal["all"] | timedelta
"""How much of the past: the newest N messages, all of the log, or what is not older than that."""


@dataclass(slots=True)
class Message:
    """What a broker carries: a channel and bytes.

    `position` is None on a backend without a log, `pattern` the subscription through which a
    broker that matches patterns by itself sent it, `time` the publishing time in seconds since
    1970 (UTC) where the backend knows it. `cursor` is where a reader of a page stands behind it,
    if the channel has several sources, of which a page may show only some.
    """

    channel: str
    data: bytes
    position: Position | None = None
    pattern: str | None = None
    time: float | None = None
    cursor: Cursor | None = None


def behind(position: Position, cursor: Cursor) -> Cursor:
    """Where a reader stands who was at the cursor; the message's own source is told last."""
    source, key = position
    return {**{one: at for one, at in cursor.items() if one != source}, source: key}


@dataclass(slots=True)
class Event(Generic[T]):
    """What a subscriber sees. Two events are equal when `channel` and `message` are.

    `id` is opaque and valid in every process that uses the same log: `subscribe(after=id)` goes on
    behind this event. It is None on a backend without a log. `time` is when it was published
    (UTC), where the backend knows it. `params` are the values of the channel's template.
    """

    channel: str
    message: T
    id: str | None = field(default=None, compare=False)
    time: datetime | None = field(default=None, compare=False)
    params: Mapping[str, str] = field(default_factory=dict[str, str], compare=False)


@dataclass(slots=True, frozen=True)
class Gap:
    """At this place of the stream messages may be missing.

    `reason`: "slow" (this reader's own buffer overflowed), "reconnected" (a broker without a log
    was away), "expired" (no longer in the log) or "reset" (the log itself was lost). `missed` is
    their number where it is known, else None. For a pattern `channel` is the pattern.
    """

    channel: str
    reason: GapReason
    missed: int | None = None


class Receipt(BaseModel):
    """What `publish` returns once the broker has accepted the message.

    `id` is the id of the event that subscribers see, None where the backend cannot know it.
    """

    channel: str
    id: str | None = None
