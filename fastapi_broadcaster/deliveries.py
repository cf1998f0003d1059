"""What many subscribers share of one message: the decoded event and its frames."""

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Generic, cast

from typing_extensions import TypeVar

from fastapi_broadcaster.exceptions import SerializationError
from fastapi_broadcaster.messages import Cursor, Event, Message
from fastapi_broadcaster.serializers import Codec

T = TypeVar("T")
F = TypeVar("F")
logger = logging.getLogger("fastapi_broadcaster")


class View(Generic[T]):
    """One message as one codec sees it.

    `event` is None when the data does not validate (`error` says why) or when the channel is not
    the template's (`error` is None). `frames` holds whatever a transport has built of it.
    """

    __slots__ = ("error", "event", "frames")

    def __init__(self, event: Event[T] | None, error: SerializationError | None) -> None:
        self.event = event
        self.error = error
        self.frames: dict[object, Any] = {}


class Delivery:
    """A message on its way to the subscribers of this process.

    `cursor` is where a reader stands once it has handed the message on.
    """

    __slots__ = ("_codec", "_format", "_others", "_view", "cursor", "message")

    def __init__(
        self, message: Message, cursor: Cursor, format: Callable[[Cursor], str] | None
    ) -> None:
        self.message = message
        self.cursor = cursor
        self._format = format
        self._codec: Codec[Any] | None = None
        self._view: View[Any] | None = None
        self._others: dict[Codec[Any], View[Any]] | None = None

    def view(self, codec: Codec[T]) -> View[T]:
        """Decode once per codec, however many subscribers ask."""
        if self._codec is codec:
            return cast(View[T], self._view)
        if self._codec is None:
            self._codec = codec
            view = self._view = self._decode(codec)
            return view
        if self._others is None:
            self._others = {}
        other = self._others.get(codec)
        if other is None:
            other = self._others[codec] = self._decode(codec)
        return cast(View[T], other)

    def _decode(self, codec: Codec[T]) -> View[T]:
        message = self.message
        params: Mapping[str, str] | None = codec.params(message.channel)
        if params is None:
            return View(None, None)
        try:
            value = codec.loads(message.data)
        except SerializationError as error:
            _complaints.log(message.channel, error)
            return View(None, error)
        id = self._format(self.cursor) if self._format is not None and self.cursor else None
        moment = message.time
        at = None if moment is None else datetime.fromtimestamp(moment, UTC)
        return View(Event(message.channel, value, id, at, params), None)


class _Complaints:
    """Logs invalid messages at most once in `every` seconds per channel, with their number."""

    def __init__(self, every: float = 10.0, most: int = 1_000) -> None:
        self.every = every
        self.most = most
        self._last: dict[str, tuple[float, int]] = {}

    def log(self, channel: str, error: SerializationError) -> None:
        now = time.monotonic()
        last, held_back = self._last.get(channel, (-self.every, 0))
        if now - last < self.every:
            self._last[channel] = (last, held_back + 1)
            return
        if len(self._last) >= self.most:
            self._last.clear()
        self._last[channel] = (now, 0)
        more = f" ({held_back} more since the last line)" if held_back else ""
        logger.warning("skipped an invalid message on %r: %s%s", channel, error, more)


_complaints = _Complaints()
