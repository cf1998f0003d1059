"""channel_router: publish, stream and WebSocket routes for a template, with OpenAPI."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, WebSocket
from fastapi.params import Depends as DependsParam
from pydantic import Base64Bytes
from typing_extensions import TypeVar

from fastapi_broadcaster.broadcaster import Broadcaster
from fastapi_broadcaster.channels import Channel, ChannelTemplate
from fastapi_broadcaster.dependencies import channel, subscriber
from fastapi_broadcaster.history import History
from fastapi_broadcaster.messages import Receipt
from fastapi_broadcaster.sse import EventStreamResponse
from fastapi_broadcaster.subscribers import Subscriber
from fastapi_broadcaster.websockets import relay

T = TypeVar("T")


def channel_router(
    template: ChannelTemplate[T],
    path: str,
    *,
    publish: bool = True,
    stream: bool = True,
    websocket: bool = True,
    history: History | None = None,
    publish_dependencies: Sequence[DependsParam] = (),
    subscribe_dependencies: Sequence[DependsParam] = (),
    max_body_size: int | None = None,
    name: str | None = None,
    broadcaster: Broadcaster | None = None,
) -> APIRouter:
    """Make a router for `app.include_router`: POST `path`, GET `path/events`, WS `path/ws`.

    Each is left out with `publish=False`, `stream=False`, `websocket=False`; the WebSocket takes
    messages only where `publish` is on, and then runs `publish_dependencies` too. `history` is
    what a stream begins with. `max_body_size` is in bytes. Routes are named after the template,
    or `name`: `rooms_room_publish`, `rooms_room_events`, `rooms_room_ws`. Authorisation belongs
    in the dependencies or in the template: these run before the subscription.
    """
    router = APIRouter()
    slug = name or re.sub(r"\W+", "_", template.name).strip("_")
    target = Depends(channel(template, broadcaster=broadcaster))
    source = Depends(subscriber(template, history=history, broadcaster=broadcaster))
    if publish:
        router.add_api_route(
            path,
            _publish_route(template, target),
            methods=["POST"],
            status_code=202,
            name=f"{slug}_publish",
            dependencies=publish_dependencies,
            max_body_size=max_body_size,
        )
    if stream:
        router.add_api_route(
            f"{path}/events",
            _stream_route(template, source),
            methods=["GET"],
            response_class=EventStreamResponse,
            responses=EventStreamResponse.docs(template.type),
            name=f"{slug}_events",
            dependencies=subscribe_dependencies,
        )
    if websocket:
        router.add_api_websocket_route(
            f"{path}/ws",
            _websocket_route(template, source, target if publish else None),
            name=f"{slug}_ws",
            dependencies=[*subscribe_dependencies, *(publish_dependencies if publish else ())],
        )
    return router


def _publish_route(template: ChannelTemplate[Any], target: Any) -> Any:
    body: Any = Base64Bytes if template.type is bytes else template.type

    async def publish(message: Any, target: Channel[Any]) -> Receipt:
        """Publish one message; accepted means that the broker has it."""
        return await target.publish(message)

    publish.__annotations__ = {
        "message": Annotated[body, Body()],
        "target": Annotated[Channel[Any], target],
        "return": Receipt,
    }
    return publish


def _stream_route(template: ChannelTemplate[Any], source: Any) -> Any:
    async def events(events: Subscriber[Any]) -> EventStreamResponse:
        """Follow the channel as Server-Sent Events; Last-Event-ID resumes."""
        return EventStreamResponse(events)

    events.__annotations__ = {
        "events": Annotated[Subscriber[Any], source],
        "return": EventStreamResponse,
    }
    return events


def _websocket_route(template: ChannelTemplate[Any], source: Any, target: Any | None) -> Any:
    async def both(websocket: WebSocket, events: Subscriber[Any], target: Channel[Any]) -> None:
        await relay(websocket, events, publish_to=target)

    async def listen(websocket: WebSocket, events: Subscriber[Any]) -> None:
        await relay(websocket, events)

    route: Any = listen if target is None else both
    route.__annotations__ = {
        "websocket": WebSocket,
        "events": Annotated[Subscriber[Any], source],
        "return": None,
    }
    if target is not None:
        route.__annotations__["target"] = Annotated[Channel[Any], target]
    return route
