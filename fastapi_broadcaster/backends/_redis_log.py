"""What `redis-stream://` knows of a stream: ids, entries, and the proof that nothing was lost."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from fastapi_broadcaster.backends._redis import as_map, pack
from fastapi_broadcaster.exceptions import BackendError, GapReason, HistoryLostError
from fastapi_broadcaster.messages import Message

_SHIFT = 64
_LOW = (1 << _SHIFT) - 1
_START = "start"
_ID = re.compile(r"(\d{1,20})-(\d{1,20})(?:@([0-9a-f]{16})@(\d{1,20}))?", re.ASCII)

# -- positions: ms<<64|seq of an entry. 0 is the start, wherever that is by now. Negative is the
# start of a log that was empty at a time of a life of the server, -(epoch<<64|ms).


def key_of(id: bytes) -> int:
    """The position of an entry."""
    ms, _, sequence = id.partition(b"-")
    return int(ms) << _SHIFT | int(sequence)


def id_of(position: int) -> bytes:
    """The entry id that a position stands for."""
    return b"%d-%d" % (position >> _SHIFT, position & _LOW) if position > 0 else b"0-0"


def empty_at(epoch: int, ms: int) -> int:
    """The position of a reader who found no stream, or one that nothing was ever added to."""
    return -(epoch << _SHIFT | ms)


def ms_of(position: int) -> int:
    """When a reader was at this position, in the server's milliseconds since 1970."""
    return position >> _SHIFT if position > 0 else -position & _LOW


def format_id(position: int) -> str:
    """`ms-seq`, `0-0@epoch@ms` for a log that was empty, or `start`."""
    if position >= 0:
        return id_of(position).decode() if position else _START
    return f"0-0@{-position >> _SHIFT:016x}@{ms_of(position)}"


def parse_id(id: str) -> int:
    """Undo `format_id`; raises `HistoryLostError("reset")`."""
    if id == _START:
        return 0
    found = _ID.fullmatch(id)
    if found is not None:
        ms, sequence = int(found[1]), int(found[2])
        position = ms << _SHIFT | sequence
        if found[3] is None and position and max(ms, sequence) <= _LOW:
            return position
        if found[3] is not None and position == 0 and int(found[4]) <= _LOW:
            return empty_at(int(found[3], 16), int(found[4]))
    raise HistoryLostError("reset", kept={})


def message_of(channel: str, entry: Sequence[Any]) -> Message:
    """An entry as a message: its field `message`, else `data`, else the first one."""
    position = key_of(entry[0])
    fields: Sequence[bytes] = entry[1]
    data = fields[1]
    if fields[0] != b"message":
        names = fields[::2]
        for name in (b"message", b"data"):
            if name in names:
                data = fields[2 * names.index(name) + 1]
                break
    return Message(channel, data, ("", position), None, (position >> _SHIFT) / 1000)


# -- the proof ------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class State:
    """What the server says of a stream, as seen from a position."""

    newest: int
    """The newest entry at or before the position, 0 if there is none."""
    exists: bool = False
    length: int = 0
    added: int = 0
    last: int = 0


@dataclass(slots=True, frozen=True)
class Facts:
    """States of several streams, read together."""

    epoch: int
    """The life of the server's data, 0 if it has no mark."""
    now: int
    """The server's clock, in milliseconds."""
    states: Sequence[State]

    @classmethod
    def of(cls, replies: Sequence[Any]) -> "Facts":
        """Read the replies to `questions`; raises `ResponseError`."""
        epoch, clock, *states = replies
        for reply in (epoch, clock):
            if isinstance(reply, ResponseError):
                raise reply
        return cls(
            epoch_of(epoch),
            int(clock[0]) * 1000 + int(clock[1]) // 1000,
            [_state(*states[at : at + 2]) for at in range(0, len(states), 2)],
        )

    def knows(self, position: int, epoch: int) -> bool:
        """Whether the server's data is still that of a position, which was reached in `epoch`."""
        return self.epoch == (-position >> _SHIFT if position < 0 else epoch)

    def _empty(self) -> int:
        return empty_at(self.epoch, self.now) if self.epoch else 0

    def start(self, state: State) -> int:
        """Where a new reader stands: behind everything that was ever added."""
        return state.last or self._empty()

    def kept(self, state: State, *, same_life: bool = True) -> int:
        """Where a reader goes on who has lost its place; what it has had is not read again."""
        if not state.exists:
            return self._empty()
        if not state.length:
            return self.start(state)
        return state.newest if same_life else 0


def questions(epoch_key: bytes, places: Iterable[tuple[bytes, int]]) -> list[bytes]:
    """The commands whose replies `Facts.of` reads, for streams as (key, position)."""
    commands = [pack(b"GET", epoch_key), pack(b"TIME")]
    for key, position in places:
        commands.append(pack(b"XREVRANGE", key, id_of(position), b"-", b"COUNT", b"1"))
        commands.append(pack(b"XINFO", b"STREAM", key))
    return commands


def _state(newest: Any, info: Any) -> State:
    if isinstance(newest, ResponseError):
        raise newest
    found = key_of(newest[0][0]) if newest else 0
    if isinstance(info, ResponseError):
        if "no such key" in str(info):
            return State(found)
        raise info
    known = as_map(info)
    last = key_of(known[b"last-generated-id"])
    return State(found, True, known[b"length"], known[b"entries-added"], last)


def epoch_of(value: bytes | None) -> int:
    """Read the mark of a life of the server's data."""
    if value is None:
        return 0
    if re.fullmatch(rb"[0-9a-f]{16}", value) is None:
        raise BackendError("the epoch key holds something else")
    return int(value, 16)


def lost(
    position: int, state: State, now: int, *, as_of: int, same_life: bool, ttl: int | None
) -> GapReason | None:
    """Why something behind a position may be lost, None if that is proven not to be so.

    Everything published before `as_of` was read, `ttl` is how long a stream outlives its last
    message, both in milliseconds; `same_life` is false once the server's data was lost.
    """
    if position == 0 or (position > 0 and state.newest == position):
        return None  # trimming begins at the oldest entry
    if not same_life:
        return "reset"
    if position > 0 and state.exists:
        if state.last == position:
            return None  # trimmed to nothing, and nothing was added
        if state.last < position:
            return "reset"
    if state.added != state.length:
        return "expired"
    # there is no stream, or one from which nothing was removed: it began behind the position
    if ttl is not None and now - as_of >= ttl:
        return "expired"
    if position < 0 or (ttl is not None and now - ms_of(position) >= ttl):
        return None  # it was idle, and whatever came since is still there
    return "reset"
