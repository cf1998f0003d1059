"""relay: a subscriber and a publisher on one WebSocket, until either side ends."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Generic, Protocol, get_type_hints
from urllib.parse import urlsplit

import orjson
from fastapi import WebSocketException
from starlette.exceptions import HTTPException
from starlette.types import Message as ASGIMessage
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from typing_extensions import TypeVar

from fastapi_broadcaster._hang_up import hang_up
from fastapi_broadcaster._options import check_seconds
from fastapi_broadcaster.channels import Channel
from fastapi_broadcaster.deliveries import View
from fastapi_broadcaster.exceptions import (
    BackendError,
    BroadcasterError,
    ChannelNameError,
    MessageTooLargeError,
    SerializationError,
    SlowSubscriberError,
    outward,
)
from fastapi_broadcaster.messages import Gap
from fastapi_broadcaster.serializers import Codec
from fastapi_broadcaster.streams import FAREWELL, StalledError, Stream
from fastapi_broadcaster.subscribers import Subscriber

T = TypeVar("T")
U = TypeVar("U")
logger = logging.getLogger("fastapi_broadcaster")
_NOTICES = 16  # frames that may wait for a client that does not read
_TOLD = (SerializationError, MessageTooLargeError, ChannelNameError, BackendError, HTTPException)


class OnMessage(Protocol):
    """`async def on_message(message: ChatMessage) -> None`; the annotation is validated."""

    def __call__(self, message: Any, /) -> Awaitable[object] | object: ...


async def relay(
    websocket: WebSocket,
    events: Subscriber[T],
    *,
    publish_to: Channel[U] | None = None,
    on_message: Callable[[U], Awaitable[object] | object] | None = None,
    envelope: bool = False,
    allowed_origins: Collection[str] = (),
    send_timeout: float | None = 30.0,
) -> None:
    """Accept the WebSocket, send it every event, and take messages from it.

    What the client sends is validated and goes to `publish_to`, or to `on_message` where the
    server adds what the client may not choose, such as the author; without either it is ignored.
    An `HTTPException` of `on_message` refuses that message alone: the client gets an error frame
    with its `detail`. Whatever else it raises closes the socket with 1011 and is raised again.
    One text frame per event (a binary one for `bytes`), or with `envelope=True` arrays of
    `{"type": "ready", "id"}` (the first), `{"type": "message", "channel", "id", "message"}`,
    `{"type": "gap", "channel", "reason", "missed", "id"}` and
    `{"type": "error", "error", "detail"}`, with the `status` of an `HTTPException`. The last `id`
    that was not null is the one to come back with, as `?after=`. Without an envelope neither ids
    nor gaps are sent. A `TypeError` tells what `events` and `on_message` have to be.

    A browser's Origin must be this host, or one of `allowed_origins` ("https://example.org",
    "*"), else the socket is refused. Returns when the client has gone or the stream has ended:
    1012 when draining, 1013 when the broker is away or the client too slow. Does not itself raise
    for what a client sends.
    """
    check_origins(allowed_origins)
    check_seconds(send_timeout=send_timeout)
    if not isinstance(events, Subscriber):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            "relay() takes a live Subscriber, of Depends(subscriber(...)) or "
            f"`async with channel.subscribe() as events`, not {type(events).__name__}"
        )
    if publish_to is not None and on_message is not None:
        raise ValueError("give publish_to= or on_message=, not both")
    if not _same_origin(websocket, allowed_origins):
        logger.warning(
            "refused a WebSocket from %r: name it in relay(allowed_origins=) to let it in",
            websocket.headers["origin"],
        )
        return await websocket.close(1008)
    if websocket.application_state is WebSocketState.CONNECTING:
        await websocket.accept()
    intake: _Intake[Any] | None = None
    if publish_to is not None:
        intake = _Intake(publish_to.codec, publish_to.publish)
    elif on_message is not None:
        intake = _Intake(Codec(_annotation(on_message)), on_message)
    stream = _FrameStream(events, websocket, envelope=envelope, send_timeout=send_timeout)
    try:
        await stream.run_beside(_receive(websocket, stream, intake))
    except StalledError as error:
        logger.warning("closed a client of %s that %s", ", ".join(events.channels), error)
        hang_up(websocket.scope)
        return
    except (BackendError, SlowSubscriberError, SerializationError) as error:
        return await _close(websocket, error, send_timeout)
    except WebSocketDisconnect:
        return
    except WebSocketException:
        raise  # closes with its own code
    except Exception:
        await _close(websocket, None, send_timeout, crashed=True)
        raise
    await _close(websocket, events.inbox.error, send_timeout, draining=events.inbox.draining)


async def _close(
    websocket: WebSocket,
    error: Exception | None,
    send_timeout: float | None,
    *,
    draining: bool = False,
    crashed: bool = False,
) -> None:
    if websocket.application_state is WebSocketState.DISCONNECTED:
        return
    if websocket.client_state is WebSocketState.DISCONNECTED and not draining:
        return  # Granian, when it ends, calls clients gone that are there: tell them when draining
    code, reason = (1012, "restart") if draining else (1000, "")
    if crashed:
        code = 1011
    elif error is not None:
        code, reason = 1013, "try again later"
    try:
        async with asyncio.timeout(FAREWELL if draining else send_timeout):
            await websocket.close(code, reason)
    except TimeoutError:
        hang_up(websocket.scope)  # the client takes nothing, not even this
    except (RuntimeError, OSError, WebSocketDisconnect):
        return  # it has gone by itself meanwhile


def check_origins(allowed: Collection[str]) -> None:
    """Raise `TypeError` for one string, which is a collection of strings too."""
    if isinstance(allowed, str):
        raise TypeError("allowed_origins= is a collection of origins, not one str")


class _Intake(Generic[U]):
    """Where the client's messages go."""

    def __init__(self, codec: Codec[U], handle: Callable[[U], Awaitable[object] | object]) -> None:
        self._codec = codec
        self._handle = handle

    async def put(self, frame: str | bytes) -> None:
        """Validate and hand on; raises what `handle` raises."""
        result = self._handle(self._codec.from_frame(frame))
        if inspect.isawaitable(result):
            await result


async def _receive(
    websocket: WebSocket, stream: "_FrameStream", intake: _Intake[Any] | None
) -> None:
    """Read until the client goes; one message at a time, so that its order is kept."""
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        if intake is None:
            continue
        frame = message.get("text")
        try:
            await intake.put(frame if frame is not None else message["bytes"])
        except _TOLD as error:
            if isinstance(error, BackendError):
                logger.warning("%s", error)
            stream.tell(error)


class _FrameStream(Stream):
    def __init__(
        self,
        subscriber: Subscriber[Any],
        websocket: WebSocket,
        *,
        envelope: bool,
        send_timeout: float | None,
    ) -> None:
        super().__init__(subscriber, websocket.send, send_timeout=send_timeout)
        self._envelope = envelope
        self._notices: list[bytes] = []  # go before the events that wait
        if envelope and not subscriber.inbox.ended:
            self._notices.append(orjson.dumps({"type": "ready", "id": self.start()}))

    def tell(self, error: BroadcasterError | HTTPException) -> None:
        """Send an error frame; the socket stays. A client that reads none gets no more."""
        if len(self._notices) >= _NOTICES:
            return
        told: dict[str, object] = {"type": "error", "error": type(error).__name__}
        if isinstance(error, HTTPException):
            told |= {"detail": error.detail, "status": error.status_code}
        else:
            told |= {"detail": outward(error)}
        self._notices.append(orjson.dumps(told))
        self.flush()

    def compose(self) -> ASGIMessage | None:
        return self._compose_array() if self._envelope else self._compose_one()

    def compose_ping(self) -> ASGIMessage:
        raise AssertionError("the server pings WebSockets by itself")

    async def _deliver(self, message: ASGIMessage) -> None:
        try:
            await self._send(message)
        except RuntimeError as error:  # the server has closed it: the client answered no ping
            raise WebSocketDisconnect(1006) from error

    def _compose_one(self) -> ASGIMessage | None:
        if self._notices:
            return {"type": "websocket.send", "text": self._notices.pop(0).decode()}
        while (item := self.subscriber.take()) is not None:
            if isinstance(item, Gap):
                continue
            try:
                return self._frame(item)
            except SerializationError as error:
                self.subscriber.refuse(error)
        return None

    def _frame(self, view: View[Any]) -> ASGIMessage:
        frame: str | bytes | None = view.frames.get("bare")
        if frame is None:
            event = view.event
            codec = self.subscriber.targets.codec_of(event.channel)
            frame = event.message if codec.raw else codec.to_json(event.message).decode()
            view.frames["bare"] = frame
        if isinstance(frame, bytes):
            return {"type": "websocket.send", "bytes": frame}
        return {"type": "websocket.send", "text": frame}

    def _compose_array(self) -> ASGIMessage | None:
        notices, self._notices = self._notices, []
        chunks = notices or self.collect(self._enveloped)
        if not chunks:
            return None
        return {"type": "websocket.send", "text": (b"[" + b",".join(chunks) + b"]").decode()}

    def _enveloped(self, view: View[Any] | Gap) -> bytes:
        if isinstance(view, Gap):
            return self._gap(view)
        frame: bytes | None = None if view.own else view.frames.get("envelope")
        if frame is None:
            event = view.event
            codec = self.subscriber.targets.codec_of(event.channel)
            frame = b'{"type":"message","channel":%b,"id":%b,"message":%b}' % (
                orjson.dumps(event.channel),
                orjson.dumps(event.id),
                codec.to_json(event.message),
            )
            if not view.own:
                view.frames["envelope"] = frame
        return frame

    def _gap(self, gap: Gap) -> bytes:
        told = {"channel": gap.channel, "reason": gap.reason, "missed": gap.missed}
        return orjson.dumps({"type": "gap", **told, "id": self.subscriber.cursor})


def _same_origin(websocket: WebSocket, allowed: Collection[str]) -> bool:
    """Whether a browser's page is this host's; other clients send no Origin."""
    origin = websocket.headers.get("origin")
    if origin is None or "*" in allowed or origin in allowed:
        return True
    host = urlsplit(origin).netloc
    here = (websocket.headers.get("host"), websocket.headers.get("x-forwarded-host"))
    return bool(host) and host in here


def _annotation(on_message: Callable[..., object]) -> Any:
    """The type of a handler's message; str where it has no annotation.

    Raises `TypeError` for a `channel.publish`, whose type is known to type checkers alone.
    """
    parameters = list(inspect.signature(on_message).parameters.values())
    if not parameters:
        raise TypeError("on_message= takes the message as its first parameter")
    function = on_message if inspect.isroutine(on_message) else type(on_message).__call__
    found = get_type_hints(function, include_extras=True).get(parameters[0].name, str)
    if isinstance(found, TypeVar):
        raise TypeError("on_message= takes messages of a type variable: give publish_to=channel")
    return found
