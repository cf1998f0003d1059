"""channel_router: publish, stream, history and WebSocket routes for a template, with OpenAPI."""

import re
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query, WebSocket
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends as DependsParam
from fastapi.routing import APIRoute, APIWebSocketRoute
from pydantic import Base64Bytes
from typing_extensions import TypeVar

from fastapi_broadcaster.broadcaster import Broadcaster
from fastapi_broadcaster.channels import Channel, ChannelTemplate
from fastapi_broadcaster.dependencies import ChannelDependency, channel, subscriber
from fastapi_broadcaster.history import MAX_LIMIT, Page
from fastapi_broadcaster.messages import History, Receipt
from fastapi_broadcaster.sse import EventStreamResponse
from fastapi_broadcaster.subscribers import Subscriber
from fastapi_broadcaster.websockets import check_origins, relay

T = TypeVar("T")
_Responses = dict[int | str, dict[str, Any]]
_AWAY: _Responses = {
    503: {"description": "The broker is away; Retry-After tells when to try again"}
}
_PUBLISH_ERRORS: _Responses = {413: {"description": "The message is too large"}, **_AWAY}
_PAGE_ERRORS: _Responses = {
    410: {"description": "The id is unknown, or no longer in the log"},
    501: {"description": "The backend keeps no log"},
    **_AWAY,
}
_Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many events at most")]
_Before = Annotated[
    str | None,
    Query(description="The id of an event, or `previous` of a page: the events older than that"),
]
_After = Annotated[
    str | None,
    Query(description="The id of an event, or `next` of a page: the events newer than that"),
]


def channel_router(
    template: ChannelTemplate[T],
    path: str,
    *,
    publish: bool = True,
    stream: bool = True,
    websocket: bool = True,
    page: bool | None = None,
    history: History | None = None,
    latest: bool = False,
    envelope: bool = False,
    allowed_origins: Collection[str] = (),
    publish_dependencies: Sequence[DependsParam] = (),
    subscribe_dependencies: Sequence[DependsParam] = (),
    max_body_size: int | None = None,
    name: str | None = None,
    broadcaster: Broadcaster | None = None,
) -> APIRouter:
    """Make a router for `app.include_router`: POST `path`, GET `path/events`, GET `path/history`,
    WS `path/ws`.

    Each is left out with `publish=False`, `stream=False`, `page=False`, `websocket=False`; the
    WebSocket takes messages only where `publish` is on, and then runs `publish_dependencies` too.
    GET `path/history` answers a `Page` of the log; on a backend that keeps none it answers 501,
    and `page=True` is an `UnsupportedError` at start-up.

    `history`, or `latest=True`, is what a stream and a WebSocket begin with; a client that
    comes back with an id goes on behind that instead. `envelope=True` gives the WebSocket ids
    and gaps, and `allowed_origins` lets pages of other hosts in, see `relay`. `max_body_size`
    is in bytes. Routes are named after the template, or `name`: `rooms_room_publish`,
    `rooms_room_events`, `rooms_room_history`, `rooms_room_ws`. Authorisation belongs in the
    dependencies or in the template: these run before the subscription. `ValueError` for a `path`
    that cannot be requested, or that names a parameter otherwise than the template.
    """
    check_origins(allowed_origins)
    if not isinstance(template, ChannelTemplate):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"channel_router() takes a ChannelTemplate, not {template!r}: "
            'ChannelTemplate("name", its type)'
        )
    if path and not path.startswith("/"):
        raise ValueError(f"the path {path!r} wants a / at its beginning")
    router = APIRouter()
    slug = name or re.sub(r"\W+", "_", template.name).strip("_")
    target = Depends(channel(template, broadcaster=broadcaster))
    source = Depends(subscriber(template, history=history, latest=latest, broadcaster=broadcaster))
    if publish:
        router.add_api_route(
            path,
            _publish_route(template, target),
            methods=["POST"],
            status_code=202,
            responses=_PUBLISH_ERRORS,
            name=f"{slug}_publish",
            dependencies=publish_dependencies,
            max_body_size=max_body_size,
        )
    if stream:
        router.add_api_route(
            f"{path}/events",
            _stream_route(source),
            methods=["GET"],
            response_class=EventStreamResponse,
            responses=EventStreamResponse.docs(template.type),
            name=f"{slug}_events",
            dependencies=subscribe_dependencies,
        )
    if page is not False:
        if taken := {"limit", "before", "after"}.intersection(template.parameters):
            raise ValueError(
                f"{template.name!r} has the parameter {taken.pop()!r}, which GET path/history "
                "takes itself: give page=False"
            )
        log = Depends(ChannelDependency(template, broadcaster, wants_log=page is True))
        router.add_api_route(
            f"{path}/history",
            _page_route(template, log),
            methods=["GET"],
            responses=_PAGE_ERRORS,
            name=f"{slug}_history",
            dependencies=subscribe_dependencies,
        )
    if websocket:
        relaying = partial(relay, envelope=envelope, allowed_origins=allowed_origins)
        router.add_api_websocket_route(
            f"{path}/ws",
            _websocket_route(source, target if publish else None, relaying),
            name=f"{slug}_ws",
            dependencies=[*subscribe_dependencies, *(publish_dependencies if publish else ())],
        )
    _check_path(router, template, path)
    return router


def _check_path(router: APIRouter, template: ChannelTemplate[Any], path: str) -> None:
    """Raise `ValueError` where the path has other parameters in place of the template's.

    More of them than the template has may be a dependency's, and fewer may be in the prefix.
    """
    for route in router.routes:
        assert isinstance(route, APIRoute | APIWebSocketRoute)
        readers = list(_walk(route.dependant))
        read = {field.alias for reader in readers for field in reader.path_params}
        asked = {field.alias for reader in readers for field in reader.query_params}
        unread = set(re.findall(r"{(\w+)", path)) - read
        missing = asked.intersection(template.parameters)
        if unread and missing:
            raise ValueError(
                f"the path {path!r} has the parameter {unread.pop()!r}, and the channel "
                f"{template.name!r} has {missing.pop()!r}: give them the same name"
            )


def _walk(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for one in dependant.dependencies:
        yield from _walk(one)


def _json_type(template: ChannelTemplate[Any]) -> Any:
    return Base64Bytes if template.type is bytes else template.type


def _publish_route(template: ChannelTemplate[Any], target: Any) -> Any:

    async def publish(message: Any, target: Channel[Any]) -> Receipt:
        """Publish one message; accepted means that the broker has it."""
        return await target.publish(message)

    publish.__annotations__ = {
        "message": Annotated[_json_type(template), Body()],
        "target": Annotated[Channel[Any], target],
        "return": Receipt,
    }
    return publish


def _stream_route(source: Any) -> Any:
    async def events(events: Subscriber[Any]) -> EventStreamResponse:
        """Follow the channel as Server-Sent Events; Last-Event-ID resumes."""
        return EventStreamResponse(events)

    events.__annotations__ = {
        "events": Annotated[Subscriber[Any], source],
        "return": EventStreamResponse,
    }
    return events


def _page_route(template: ChannelTemplate[Any], log: Any) -> Any:
    page: Any = Page  # of a type that is known at run time only

    async def history(
        target: Channel[Any],
        limit: _Limit = 100,
        before: _Before = None,
        after: _After = None,
    ) -> Page[Any]:
        """Read a page of the log, oldest first: the newest events, or those next to an id.

        Its `previous` leads back as `before`, its `next` leads on as `after`; null means that
        there is nothing there.
        """
        if before and after:
            problem = {"type": "value_error", "loc": ("query", "after"), "input": after}
            raise RequestValidationError([{**problem, "msg": "give before or after, not both"}])
        return await target.page(limit=limit, before=before, after=after)

    history.__annotations__ |= {
        "target": Annotated[Channel[Any], log],
        "return": page[_json_type(template)],
    }
    return history


def _websocket_route(source: Any, target: Any | None, relaying: Any) -> Any:
    async def both(websocket: WebSocket, events: Subscriber[Any], target: Channel[Any]) -> None:
        await relaying(websocket, events, publish_to=target)

    async def listen(websocket: WebSocket, events: Subscriber[Any]) -> None:
        await relaying(websocket, events)

    route: Any = listen if target is None else both
    route.__annotations__ = {
        "websocket": WebSocket,
        "events": Annotated[Subscriber[Any], source],
        "return": None,
    }
    if target is not None:
        route.__annotations__["target"] = Annotated[Channel[Any], target]
    return route
