"""What one subscriber hears, and how far it has read."""

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from typing_extensions import TypeVar

from fastapi_broadcaster import _patterns
from fastapi_broadcaster.deliveries import Delivery, Format
from fastapi_broadcaster.exceptions import HistoryLostError
from fastapi_broadcaster.messages import Cursor, Message, behind
from fastapi_broadcaster.serializers import TEXT, Codec

_COMPOSITE = "~m."
T_co = TypeVar("T_co", covariant=True, default=str)


@dataclass(slots=True, frozen=True)
class Target:
    """One channel, or one pattern, and how its messages are read."""

    name: str
    codec: Codec[Any]
    is_pattern: bool = False

    def hears(self, channel: str) -> bool:
        """Whether a message of that channel is for this target."""
        return _patterns.matches(self.name, channel) if self.is_pattern else self.name == channel


class _Reads(Protocol[T_co]):
    def loads(self, data: bytes, /) -> T_co: ...


class Source(Protocol[T_co]):
    """What a target can be made of: a `Channel`."""

    @property
    def name(self) -> str: ...
    @property
    def codec(self) -> _Reads[T_co]: ...
    @property
    def backend(self) -> object: ...


def target_of(channel: str | Source[object], backend: object) -> Target:
    """The target that a name, which means text, or a channel stands for.

    Raises `ValueError` for a channel of a broadcaster with another backend.
    """
    if isinstance(channel, str):
        return Target(str.__str__(channel), TEXT)  # as `check_name` makes it
    assert isinstance(channel.codec, Codec)
    if channel.backend is not backend:
        raise ValueError(f"the channel {channel.name!r} is one of another broadcaster")
    return Target(channel.name, channel.codec)


class Targets:
    """The targets of one subscriber and the cursor that they share."""

    __slots__ = ("_format", "_only", "_targets", "composite", "cursors", "pending", "version")

    def __init__(self, targets: Iterable[Target], format: Format | None) -> None:
        self.cursors: dict[str, Cursor] = {}
        self.pending: set[str] = set()  # whose history waits, and nothing of it was handed on
        self.version = 0  # how often they have changed
        self._format = format
        self._set(list(targets))

    def _set(self, targets: list[Target]) -> None:
        self._targets = targets
        self._only = targets[0] if len(targets) == 1 else None
        if self.has_pattern:
            self._format = None
        several = len(targets) > 1 or self.version > 0  # else an old id would be one of the other
        self.composite = self._format is not None and several

    def __iter__(self) -> Iterator[Target]:
        return iter(self._targets)

    def __contains__(self, name: str) -> bool:
        return any(target.name == name for target in self._targets)

    @property
    def has_pattern(self) -> bool:
        return any(target.is_pattern for target in self._targets)

    def join(self, others: "Targets") -> None:
        """Take over the targets of another subscriber, and how far it has read them."""
        self.version += 1
        self._set([*self._targets, *others])
        self.cursors.update(others.cursors)
        self.pending |= others.pending

    def remove(self, name: str) -> None:
        """Forget a channel and how far it was read."""
        self.version += 1
        self._set([target for target in self._targets if target.name != name])
        self.cursors.pop(name, None)
        self.pending.discard(name)

    def codec_of(self, channel: str) -> Codec[Any]:
        """How messages of a channel are read: as the first target that hears it says."""
        if self._only is not None:
            return self._only.codec
        return self._first(channel).codec

    def name_of(self, channel: str) -> str:
        """The target through which a channel is heard: its name, or a pattern."""
        return self._only.name if self._only is not None else self._first(channel).name

    def takes(self, message: Message) -> bool:
        """Whether a message that a broker sent once per subscription came by the first match."""
        if self._only is not None:
            return True
        first = self._first(message.channel)
        return (first.name if first.is_pattern else None) == message.pattern

    def _first(self, channel: str) -> Target:
        return next(target for target in self._targets if target.hears(channel))

    def advance(self, delivery: Delivery, *, replayed: bool) -> bool:
        """Move the cursor behind a message; False if the reader has had it already."""
        message = delivery.message
        position = message.position
        if position is None or self._format is None:
            return True
        source, key = position
        cursor = self.cursors.get(message.channel, {})
        if not replayed and key <= cursor.get(source, -1):
            return False
        if self.pending:
            self.pending.discard(message.channel)
        whole = replayed or len(delivery.cursor) == 1
        self.cursors[message.channel] = delivery.cursor if whole else behind(position, cursor)
        return True

    def leap(self, channel: str, cursor: Cursor | None) -> None:
        """Move to where a gap in the log ends."""
        if cursor is not None:
            self.cursors[channel] = cursor
            self.pending.discard(channel)

    def id(self) -> str | None:
        """The public form of the cursor."""
        format = self._format
        told = self.cursors
        if self.pending:
            told = {name: cursor for name, cursor in told.items() if name not in self.pending}
        if format is None or not told:
            return None
        if self._only is not None and not self.composite:
            name = self._only.name
            return format(name, told[name])
        ids = {channel: format(channel, cursor) for channel, cursor in told.items()}
        return _COMPOSITE + base64.urlsafe_b64encode(orjson.dumps(ids)).decode().rstrip("=")

    def parse(self, id: str, parse: Callable[[str, str], Cursor]) -> dict[str, Cursor]:
        """The cursors that an id stands for, by channel.

        Raises `HistoryLostError("reset")` for an id that is not of these channels.
        """
        names = [target.name for target in self._targets]
        if not id.startswith(_COMPOSITE):
            if self._only is None:
                raise HistoryLostError("reset", kept={})
            return {self._only.name: parse(self._only.name, id)}
        packed = id.removeprefix(_COMPOSITE)
        try:
            ids = orjson.loads(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
            found = {name: parse(name, ids[name]) for name in names if name in ids}
        except (binascii.Error, ValueError, TypeError) as error:
            raise HistoryLostError("reset", kept={}) from error
        if not found:
            raise HistoryLostError("reset", kept={})
        return found
