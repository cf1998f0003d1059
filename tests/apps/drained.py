"""Streams that write a line to a file when they end: in their `finally`, and in a dependency's."""

import os
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, WebSocket
from fastapi.params import Depends as DependsParam
from fastapi.sse import EventSourceResponse
from starlette.types import Receive, Scope, Send

from fastapi_broadcaster import (
    Broadcaster,
    ChannelTemplate,
    EventStreamResponse,
    Subscriber,
    relay,
    subscriber,
)

broadcaster = Broadcaster(
    os.environ.get("BROADCASTER_URL", "memory://"),
    inline_sends=os.environ.get("INLINE_SENDS", "1") == "1",
    subscribe_timeout=60.0,
)
app = FastAPI(lifespan=broadcaster.lifespan)
rooms = ChannelTemplate("rooms.{room}", str)
Events = Annotated[Subscriber[str], Depends(subscriber(rooms))]


def write(line: str) -> None:
    """Append a line; one write of a few bytes is not torn by other processes."""
    file = os.open(os.environ["LINES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def recorded(kind: str) -> DependsParam:
    async def dependency() -> AsyncIterator[None]:
        try:
            yield
        finally:
            write(f"{kind} dependency")

    return DependsParam(dependency)


@app.get("/rooms/{room}/events", response_class=EventStreamResponse, dependencies=[recorded("sse")])
async def listen(events: Events) -> EventStreamResponse:
    class Recorded(EventStreamResponse):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await super().__call__(scope, receive, send)
            finally:
                write("sse finally")

    return Recorded(events)


@app.get(
    "/rooms/{room}/generated",
    response_class=EventSourceResponse,
    dependencies=[recorded("generated")],
)
async def generate(events: Events) -> AsyncIterator[str]:
    try:
        async for event in events:
            yield event.message
    finally:
        write("generated finally")


@app.websocket("/rooms/{room}/ws", dependencies=[recorded("ws")])
async def chat(websocket: WebSocket, events: Events) -> None:
    try:
        await relay(websocket, events)
    finally:
        write("ws finally")


@app.websocket("/rooms/{room}/bare", dependencies=[recorded("bare")])
async def bare(websocket: WebSocket, events: Events) -> None:
    await websocket.accept()
    try:
        async for event in events:
            await websocket.send_text(event.message)
    finally:
        write("bare finally")
