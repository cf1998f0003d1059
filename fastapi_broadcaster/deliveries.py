"""What many subscribers share of one message: the decoded event and its frames."""

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Generic

from typing_extensions import TypeVar

from fastapi_broadcaster.exceptions import SerializationError
from fastapi_broadcaster.messages import Cursor, Event, Message
from fastapi_broadcaster.serializers import Codec

T = TypeVar("T")
F = TypeVar("F")
Format = Callable[[str, Cursor], str]
"""Makes the id of a channel's cursor."""
logger = logging.getLogger("fastapi_broadcaster")


class View(Generic[T]):
    """One message as one codec sees it, with whatever frames a transport has built of it.

    With `own` its id is one subscriber's alone, and so is every frame that has the id.
    """

    __slots__ = ("event", "frames", "own")

    def __init__(self, event: Event[T], frames: dict[object, Any], *, own: bool = False) -> None:
        self.event = event
        self.frames = frames
        self.own = own


class Delivery:
    """A message on its way to the subscribers of this process.

    `cursor` is where a reader stands once it has handed the message on.
    """

    __slots__ = ("_codec", "_format", "_others", "_view", "cursor", "message")

    def __init__(self, message: Message, cursor: Cursor, format: Format | None) -> None:
        self.message = message
        self.cursor = cursor
        self._format = format
        self._codec: Codec[Any] | None = None
        self._view: Any = None
        self._others: dict[Codec[Any], Any] | None = None

    def view(self, codec: Codec[T]) -> View[T] | SerializationError | None:
        """Decode once per codec, however many subscribers ask.

        An error for data that does not validate, None for a channel that is not the template's.
        """
        if self._codec is None:
            self._codec = codec
            self._view = self._decode(codec)
        if self._codec is codec:
            view: View[T] | SerializationError | None = self._view
            return view
        if self._others is None:
            self._others = {}
        if codec not in self._others:
            self._others[codec] = self._decode(codec)
        other: View[T] | SerializationError | None = self._others[codec]
        return other

    def _decode(self, codec: Codec[T]) -> View[T] | SerializationError | None:
        message = self.message
        params: Mapping[str, str] | None = codec.params(message.channel)
        if params is None:
            return None
        try:
            value = codec.loads(message.data)
        except SerializationError as error:
            complaints.log(message.channel, error)
            return error
        id = None
        if self._format is not None and self.cursor:
            id = self._format(message.channel, self.cursor)
        moment = message.time
        at = None if moment is None else datetime.fromtimestamp(moment, UTC)
        return View(Event(message.channel, value, id, at, params), {})


class _Complaints:
    """Logs what is skipped, at most once in `every` seconds per channel and kind of error."""

    def __init__(self, every: float = 10.0, most: int = 1_000) -> None:
        self.every = every
        self.most = most
        self._last: dict[object, tuple[float, int]] = {}

    def log(self, channel: str, error: SerializationError) -> None:
        now, key = time.monotonic(), (channel, _kind(error))
        last, held_back = self._last.get(key, (-self.every, 0))
        if now - last < self.every:
            self._last[key] = (last, held_back + 1)
            return
        if len(self._last) >= self.most:
            self._last.clear()
        self._last[key] = (now, 0)
        more = f" ({held_back} more since the last line)" if held_back else ""
        logger.warning("skipped an invalid message on %r: %s%s", channel, error, more)


def _kind(error: SerializationError) -> object:
    """What tells one mistake from another, and is the same for any number of messages."""
    return error.__cause__ and (type(error.__cause__), str(error).partition(":")[0])


complaints = _Complaints()
