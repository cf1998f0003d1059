"""FastAPI's side: finding the broadcaster, channels and subscribers as dependencies, errors."""

import inspect
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any, Generic, cast, overload

from fastapi import Depends, Header, HTTPException, Query, WebSocket, WebSocketException
from fastapi.requests import HTTPConnection
from pydantic import AfterValidator
from pydantic.fields import FieldInfo
from starlette.websockets import WebSocketState
from typing_extensions import TypeVar, Unpack

from fastapi_broadcaster import _names
from fastapi_broadcaster._options import Options, SubscribeOptions
from fastapi_broadcaster._targets import Target
from fastapi_broadcaster.broadcaster import Broadcaster
from fastapi_broadcaster.channels import Channel, ChannelTemplate, Subscription, is_constant
from fastapi_broadcaster.exceptions import (
    BackendError,
    BroadcasterError,
    ChannelNameError,
    HistoryLostError,
    MessageTooLargeError,
    NotConnectedError,
    PageError,
    SerializationError,
    SlowSubscriberError,
    UnsupportedError,
    outward,
)
from fastapi_broadcaster.subscribers import Subscriber

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
T = TypeVar("T", default=str)
logger = logging.getLogger("fastapi_broadcaster")

_REASON = 123  # bytes that a WebSocket's close reason may have
# error: (HTTP status, WebSocket close code)
_ANSWERS: dict[type[BroadcasterError], tuple[int, int]] = {
    MessageTooLargeError: (413, 1009),
    SerializationError: (422, 1007),
    ChannelNameError: (422, 1008),
    PageError: (422, 1008),
    HistoryLostError: (410, 1008),
    SlowSubscriberError: (503, 1013),
    UnsupportedError: (501, 1011),
    BackendError: (503, 1013),
}


async def map_errors(connection: HTTPConnection) -> AsyncIterator[None]:
    """Turn this package's errors into HTTP statuses and WebSocket close codes.

    Everything below `Depends(channel(...))`, `Depends(subscriber(...))` and
    `Depends(get_broadcaster)` has it; depend on it directly where none of these is used.
    """
    try:
        yield
    except tuple(_ANSWERS) as error:
        if isinstance(error, BackendError | UnsupportedError):
            logger.warning("%s", error)
        status, code = next(answer for kind, answer in _ANSWERS.items() if isinstance(error, kind))
        if not isinstance(connection, WebSocket):
            headers = {"Retry-After": "1"} if status == 503 else None
            raise HTTPException(status, outward(error), headers) from error
        if code == 1013 and connection.application_state is WebSocketState.CONNECTING:
            await connection.accept()  # a browser sees the code of an accepted socket only
        reason = outward(error).encode()[:_REASON].decode(errors="ignore")
        raise WebSocketException(code, reason) from error


async def get_broadcaster(
    connection: HTTPConnection, _: Annotated[None, Depends(map_errors)]
) -> Broadcaster:
    """Find the broadcaster whose lifespan the app runs in; override it in tests.

    Raises `NotConnectedError` where there is none.
    """
    found = getattr(connection.app.state, "broadcaster", None)
    if isinstance(found, Broadcaster):
        return found
    if Broadcaster.connected:
        raise NotConnectedError(
            "a broadcaster is connected, but not through this app's lifespan: use "
            "FastAPI(lifespan=broadcaster.lifespan), `async with broadcaster.lifespan(app)`, "
            "or name it with channel(..., broadcaster=broadcaster)"
        )
    raise NotConnectedError(
        "no broadcaster is connected: use FastAPI(lifespan=broadcaster.lifespan), "
        "and `with TestClient(app) as client` in tests"
    )


BroadcasterDep = Annotated[Broadcaster, Depends(get_broadcaster)]


class ChannelDependency(Generic[T]):
    """What `channel()` returns; compared by identity.

    With `wants_log` a backend that keeps no log is refused at start-up.
    """

    def __init__(
        self,
        template: ChannelTemplate[T] | str,
        broadcaster: Broadcaster | None,
        *,
        wants_log: bool = False,
    ) -> None:
        self.template = cast(ChannelTemplate[T], _template(template))
        self.broadcaster = broadcaster
        self.wants_log = wants_log
        self.__signature__ = _signature(broadcaster, [self.template], [])

    async def __call__(self, **values: Any) -> Channel[T]:
        host = _host(self.broadcaster, values)
        return Channel(host, _name(self.template, values), self.template.codec)


class SubscriberDependency(Generic[T]):
    """What `subscriber()` returns; compared by identity."""

    def __init__(
        self,
        templates: tuple[ChannelTemplate[Any] | str, ...],
        broadcaster: Broadcaster | None,
        options: Options,
    ) -> None:
        if not 1 <= len(templates) <= 4:
            raise TypeError("subscriber() takes one to four channels")
        self.templates = [_template(template) for template in templates]
        self.broadcaster = broadcaster
        self.options = options
        self.wants_log = options.wants_log or options.after is not None
        self.__signature__ = _signature(broadcaster, self.templates, _RESUME)

    async def __call__(self, **values: Any) -> AsyncIterator[Subscriber[T]]:
        host = _host(self.broadcaster, values)
        named = [(_name(one, values), one.codec) for one in self.templates]
        # two templates may name the same channel: the client chooses the values
        chosen = {name: Target(host.check_name(name), codec) for name, codec in reversed(named)}
        targets = tuple(reversed(chosen.values()))
        after = values[_HEADER] or _put_behind(values[_CONNECTION]) or values[_QUERY] or None
        subscription: Subscription[T] = Subscription(host, targets, self.options.but(after=after))
        try:
            subscriber = await subscription.__aenter__()
        except BackendError as error:
            # The status of an event stream is 200 even so, else a browser never comes back:
            # whoever reads this subscriber gets the error.
            logger.warning("could not subscribe: %s", error)
            yield Subscriber[T].failed(targets, error)
            return
        try:
            yield subscriber
        finally:
            await subscription.__aexit__(None, None, None)


def channel(
    channel: ChannelTemplate[T] | str, *, broadcaster: Broadcaster | None = None
) -> ChannelDependency[T]:
    """`Annotated[Channel[ChatMessage], Depends(channel(rooms))]`: one channel to publish to.

    A template's parameters are path parameters where the path has them, else query parameters.
    `broadcaster` is for a second one; the app's own is found by `get_broadcaster`.
    """
    return ChannelDependency(channel, broadcaster)


@overload
def subscriber(
    one: ChannelTemplate[A],
    /,
    *,
    broadcaster: Broadcaster | None = None,
    **options: Unpack[SubscribeOptions],
) -> SubscriberDependency[A]: ...
@overload
def subscriber(
    one: str, /, *, broadcaster: Broadcaster | None = None, **options: Unpack[SubscribeOptions]
) -> SubscriberDependency[str]: ...
@overload
def subscriber(
    one: ChannelTemplate[A],
    two: ChannelTemplate[B],
    /,
    *,
    broadcaster: Broadcaster | None = None,
    **options: Unpack[SubscribeOptions],
) -> SubscriberDependency[A | B]: ...
@overload
def subscriber(
    one: ChannelTemplate[A],
    two: ChannelTemplate[B],
    three: ChannelTemplate[C],
    /,
    *,
    broadcaster: Broadcaster | None = None,
    **options: Unpack[SubscribeOptions],
) -> SubscriberDependency[A | B | C]: ...
@overload
def subscriber(
    one: ChannelTemplate[A],
    two: ChannelTemplate[B],
    three: ChannelTemplate[C],
    four: ChannelTemplate[D],
    /,
    *,
    broadcaster: Broadcaster | None = None,
    **options: Unpack[SubscribeOptions],
) -> SubscriberDependency[A | B | C | D]: ...
def subscriber(
    *channels: ChannelTemplate[Any] | str,
    broadcaster: Broadcaster | None = None,
    **options: Unpack[SubscribeOptions],
) -> SubscriberDependency[Any]:
    """`Annotated[Subscriber[ChatMessage], Depends(subscriber(rooms))]`: live before the route runs.

    One to four templates, or one name. The options are those of `Broadcaster.subscribe`; a
    client's Last-Event-ID header, or `?last_event_id=`, wins over `history`. On a WebSocket,
    where a browser can set no header, `?after=` is the same.
    """
    return SubscriberDependency(channels, broadcaster, Options.of(options, "subscriber"))


def _template(template: ChannelTemplate[Any] | str) -> ChannelTemplate[Any]:
    return template if isinstance(template, ChannelTemplate) else ChannelTemplate(template, str)


# -- how FastAPI sees these dependencies --------------------------------------------------------

_HOST, _MAP, _HEADER, _QUERY = "_broadcaster", "_map_errors", "_last_event_id", "_after"
_CONNECTION = "_connection"
_BEHIND = "The id of an event, to go on behind it"
_RESUME = [
    (_CONNECTION, HTTPConnection, inspect.Parameter.empty),
    (_HEADER, Annotated[str | None, Header(alias="Last-Event-ID", description=_BEHIND)], None),
    (_QUERY, Annotated[str | None, Query(alias="last_event_id", description=_BEHIND)], None),
]


def _signature(
    broadcaster: Broadcaster | None,
    templates: list[ChannelTemplate[Any]],
    more: list[tuple[str, Any, Any]],
) -> inspect.Signature:
    """The parameters that FastAPI shall fill: errors, broadcaster, templates, then the rest."""
    found: dict[str, tuple[Any, Any]] = {
        _MAP: (Annotated[None, Depends(map_errors)], inspect.Parameter.empty)
    }
    if broadcaster is None:
        found[_HOST] = (BroadcasterDep, inspect.Parameter.empty)
    for template in templates:
        for name in template.parameters:
            binding = template.bindings.get(name, str)
            if not is_constant(binding):
                found[name] = (_annotation(name, binding), inspect.Parameter.empty)
    found.update((name, (annotation, default)) for name, annotation, default in more)
    return inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=value)
            for name, (kind, value) in found.items()
        ]
    )


def _annotation(name: str, binding: object) -> Any:
    if hasattr(binding, "dependency"):
        return Annotated[Any, binding]
    check = AfterValidator(partial(_checked, name))
    if isinstance(binding, FieldInfo):
        return Annotated[str, check, binding]
    return Annotated[cast(Any, binding), check]


def _checked(name: str, value: Any) -> Any:
    _names.check_value(name, value)
    return value


def _put_behind(connection: HTTPConnection) -> str | None:
    """The id that a socket's client, or a substitute for EventSource, puts behind its URL."""
    name = "after" if isinstance(connection, WebSocket) else "lastEventId"
    return connection.query_params.get(name)


def _host(broadcaster: Broadcaster | None, values: dict[str, Any]) -> Broadcaster:
    return broadcaster if broadcaster is not None else cast(Broadcaster, values[_HOST])


def _name(template: ChannelTemplate[Any], values: dict[str, Any]) -> str:
    return template.format(**{name: values[name] for name in template.parameters if name in values})
