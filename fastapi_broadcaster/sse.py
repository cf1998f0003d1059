"""EventStreamResponse: a subscriber as Server-Sent Events."""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from pydantic import TypeAdapter
from starlette.background import BackgroundTask
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import Message as ASGIMessage
from starlette.types import Receive, Scope, Send
from typing_extensions import TypeForm, TypeVar

from fastapi_broadcaster._hang_up import hang_up
from fastapi_broadcaster._options import check_seconds
from fastapi_broadcaster.channels import Subscription
from fastapi_broadcaster.deliveries import View
from fastapi_broadcaster.exceptions import (
    BackendError,
    SerializationError,
    SlowSubscriberError,
)
from fastapi_broadcaster.messages import Gap
from fastapi_broadcaster.streams import FAREWELL, StalledError, Stream
from fastapi_broadcaster.subscribers import Subscriber

T = TypeVar("T")
END = "~end"
TAKEN = ("gap", "end")  # names of the frames that are no messages
RETRY = (1.0, 2.0)  # seconds; the client waits somewhere between before it reconnects
RETRY_DRAIN = (1.0, 5.0)
logger = logging.getLogger("fastapi_broadcaster")


class EventStreamResponse(Response):
    """Sends every event as `data:` (JSON of the channel's type) with its `id:`.

    `events` is a live `Subscriber`, or a `channel.subscribe(...)` that was not entered yet; it
    is then opened here, behind the client's Last-Event-ID. A gap is `event: gap` with its
    channel, reason and missed as data. `ping`: a comment after so many seconds without an event
    (None: never). `until(message)`: the first message for which it is true is the last one, and
    the client is told not to come back: `event: end` with the id `~end`, to which only 204 is
    answered. `event`: the SSE event name of messages ("gap" and "end" are taken), or a function
    that names each message. A message for which one of these functions fails is skipped, logged
    and counted. `max_age`: end after so many seconds, for a clean reconnect. `send_timeout`: give
    up on a client that takes nothing for so many seconds. Each time is more than 0, or None for
    never; else `ValueError`, as for a name that cannot be. `TypeError` for other `events`.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: Subscriber[T] | Subscription[T],
        *,
        ping: float | None = 15.0,
        until: Callable[[T], bool] | None = None,
        event: str | Callable[[T], str] | None = None,
        max_age: float | None = None,
        send_timeout: float | None = 30.0,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        background: BackgroundTask | None = None,
    ) -> None:
        if not isinstance(events, Subscriber | Subscription):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                "EventStreamResponse() takes a Subscriber or channel.subscribe(...), "
                f"not {type(events).__name__}"
            )
        if isinstance(events, Subscriber) and events.closed:
            raise RuntimeError("this subscriber is closed: respond inside its `async with`")
        if isinstance(event, str):
            _name_line(event)
        check_seconds(ping=ping, max_age=max_age, send_timeout=send_timeout)
        self._events: Subscriber[Any] | Subscription[Any] = events
        self._timing = {"ping": ping, "max_age": max_age, "send_timeout": send_timeout}
        self._until: Callable[[Any], bool] | None = until
        self._event: str | Callable[[Any], str] | None = event
        self.status_code = status_code
        self.background = background
        self.init_headers(
            {
                "cache-control": "no-cache, no-transform",
                "x-accel-buffering": "no",
                **(headers or {}),
            }
        )

    @staticmethod
    def docs(type: TypeForm[T]) -> dict[int | str, dict[str, Any]]:
        """`responses=EventStreamResponse.docs(ChatMessage)` describes the stream in OpenAPI."""
        schema = TypeAdapter[T](type).json_schema(mode="serialization")
        if "$defs" in schema:
            schema = {"$id": f"urn:event:{schema.get('title', 'item')}", **schema}
        data = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
        item = {
            "type": "object",
            "required": ["data"],
            "properties": {
                "data": data,
                "event": {"type": "string"},
                "id": {"type": "string"},
                "retry": {"type": "integer", "minimum": 0},
            },
        }
        content = {"text/event-stream": {"itemSchema": item}}
        return {200: {"description": "Server-Sent Events", "content": content}}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        last = last_event_id(scope)
        if last == END:
            await Response(status_code=204)(scope, receive, send)
        elif isinstance(self._events, Subscriber):
            if self._events.closed:
                logger.error(
                    "an event stream had ended before it began: respond with the "
                    "channel.subscribe(...) itself, not from inside its `async with`"
                )
            await self._respond(self._events, scope, receive, send)
        else:
            self._events.options = self._events.options.but(after=last)
            try:
                async with self._events as subscriber:
                    await self._respond(subscriber, scope, receive, send)
            except BackendError as error:
                await self._start(send)
                await self._end(scope, send, error)
        if self.background is not None:
            await self.background()

    async def _start(self, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )

    async def _respond(
        self, subscriber: Subscriber[Any], scope: Scope, receive: Receive, send: Send
    ) -> None:
        await self._start(send)
        stream = _EventStream(
            subscriber, send, until=self._until, event=self._event, **self._timing
        )
        try:
            if not subscriber.inbox.ended:
                await send(_body(b"retry: %d\n" % _milliseconds(RETRY) + stream.start_id() + b"\n"))
            await stream.serve(receive, "http.disconnect")
        except StalledError as error:
            logger.warning("closed a client of %s that %s", ", ".join(subscriber.channels), error)
            return await self._hang_up(scope, receive)
        except (BackendError, SlowSubscriberError, SerializationError) as error:
            return await self._end(scope, send, error)
        await self._end(scope, send, subscriber.inbox.error, draining=subscriber.inbox.draining)

    async def _hang_up(self, scope: Scope, receive: Receive) -> None:
        """Return when the server has noticed: to it, this response has no end."""
        if hang_up(scope):
            try:
                async with asyncio.timeout(FAREWELL):
                    while (await receive())["type"] != "http.disconnect":
                        pass
            except TimeoutError:
                pass

    async def _end(
        self,
        scope: Scope,
        send: Send,
        error: Exception | None = None,
        *,
        draining: bool = False,
    ) -> None:
        """Tell the client when to come back, and end; the status has left long ago."""
        if error is not None:
            logger.info("ended an event stream: %s", error)
        retry = b"retry: %d\n\n" % _milliseconds(RETRY_DRAIN if draining or error else RETRY)
        try:
            async with asyncio.timeout(FAREWELL if draining else self._timing["send_timeout"]):
                await send(_body(retry))
                await send(_body(b"", more=False))
        except TimeoutError:
            hang_up(scope)  # the client takes nothing, not even this


class _EventStream(Stream):
    def __init__(
        self,
        subscriber: Subscriber[Any],
        send: Send,
        *,
        until: Callable[[Any], bool] | None,
        event: str | Callable[[Any], str] | None,
        **timing: float | None,
    ) -> None:
        super().__init__(subscriber, send, **timing)
        self._until = until
        self._name = event
        self._key = ("sse", event)  # of the frame with its id

    def start_id(self) -> bytes:
        """Lets a client resume that has not seen an event yet."""
        return _id_line(self.start())

    def compose(self) -> ASGIMessage | None:
        chunks = self.collect(self._frame_or_gap)
        if not chunks:
            return None
        return _body(chunks[0] if len(chunks) == 1 else b"".join(chunks))

    def compose_ping(self) -> ASGIMessage:
        return _body(b": ping\n\n")

    def _frame_or_gap(self, item: View[Any] | Gap) -> bytes:
        if isinstance(item, Gap):
            return self._gap(item)
        frame = self._frame(item)
        if self._is_last(item.event.message):
            self.finished = True
            frame += b"id: %b\nevent: end\ndata:\n\n" % END.encode()
        return frame

    def _is_last(self, message: Any) -> bool:
        try:
            return self._until is not None and self._until(message)
        except Exception as error:
            raise SerializationError(f"until= failed: {error!r}") from error

    def _name_line(self, message: Any) -> bytes:
        try:
            name = self._name(message) if callable(self._name) else self._name
            return b"" if name is None else _name_line(name)
        except Exception as error:
            raise SerializationError(f"event= failed: {error!r}") from error

    def _frame(self, view: View[Any]) -> bytes:
        frame: bytes = b"" if view.own else view.frames.get(self._key, b"")
        if not frame:
            event = view.event
            if (data := view.frames.get("data")) is None:
                codec = self.subscriber.targets.codec_of(event.channel)
                data = view.frames["data"] = b"data: %b\n\n" % codec.to_json(event.message)
            frame = _id_line(event.id) + self._name_line(event.message) + data
            if not view.own:
                view.frames[self._key] = frame
        return frame

    def _gap(self, gap: Gap) -> bytes:
        told = {"channel": gap.channel, "reason": gap.reason, "missed": gap.missed}
        id = _id_line(self.subscriber.cursor)
        return b"%bevent: gap\ndata: %b\n\n" % (id, orjson.dumps(told))


def _id_line(id: str | None) -> bytes:
    """Before the data: simple clients pair a `data:` with the `id:` that they have seen."""
    return b"id: %b\n" % id.encode() if id is not None else b""


def _name_line(name: str) -> bytes:
    if not name or any(char in name for char in "\r\n\0"):
        raise ValueError(f"event= is one line of text, not {name!r}")
    if name in TAKEN:
        raise ValueError(f"event={name!r} is taken: gaps and the end of a stream have that name")
    return b"event: %b\n" % name.encode()


def last_event_id(scope: Scope) -> str | None:
    """Where the client wants to go on: the header, else what was put behind the URL.

    Substitutes for a browser's EventSource do that with `lastEventId`, when they reconnect.
    """
    query = QueryParams(scope["query_string"])
    header = Headers(scope=scope).get("last-event-id")
    return header or query.get("lastEventId") or query.get("last_event_id") or None


def _body(data: bytes, *, more: bool = True) -> ASGIMessage:
    return {"type": "http.response.body", "body": data, "more_body": more}


def _milliseconds(span: tuple[float, float]) -> int:
    return round(random.uniform(*span) * 1_000)
