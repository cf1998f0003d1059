"""A chat with any number of rooms, over whatever broker BROADCASTER_URL names.

scripts/chat
BROADCASTER_URL=redis://localhost:6379 scripts/chat --workers 2
"""

import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, StringConstraints

from fastapi_broadcaster import (
    Broadcaster,
    Channel,
    ChannelTemplate,
    EventStreamResponse,
    Page,
    Receipt,
    Subscriber,
    channel,
    subscriber,
)

STATIC = Path(__file__).parent / "static"


class Draft(BaseModel):
    """What a browser sends."""

    user: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40)]
    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4_000)]


class ChatMessage(Draft):
    """What everybody in the room gets; the time is the server's."""

    at: datetime


broadcaster = Broadcaster(os.environ.get("BROADCASTER_URL", "memory://"))
app = FastAPI(title="Broadcaster chat", lifespan=broadcaster.lifespan)
app.mount("/static", StaticFiles(directory=STATIC))

rooms = ChannelTemplate("rooms.{room}", ChatMessage)
history = 50 if broadcaster.has_history else None
Room = Annotated[Channel[ChatMessage], Depends(channel(rooms))]
RoomEvents = Annotated[Subscriber[ChatMessage], Depends(subscriber(rooms, history=history))]


@app.post("/rooms/{room}", status_code=202)
async def say(draft: Draft, room: Room) -> Receipt:
    return await room.publish(ChatMessage(user=draft.user, text=draft.text, at=datetime.now(UTC)))


@app.get("/rooms/{room}/events", response_class=EventStreamResponse)
async def listen(events: RoomEvents) -> EventStreamResponse:
    return EventStreamResponse(events)


@app.get("/rooms/{room}/history")
async def look_back(room: Room, before: str) -> Page[ChatMessage]:
    return await room.page(limit=50, before=before)


@app.get("/", response_class=RedirectResponse)
async def index() -> str:
    return "rooms/lobby"


@app.get("/rooms/{room}", response_class=FileResponse)
async def page(room: str) -> Path:
    return STATIC / "index.html"


@app.middleware("http")
async def name_worker(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    """Say which process answered, so that one can see the broker between two of them at work."""
    response = await call_next(request)
    response.headers["X-Worker-Pid"] = str(os.getpid())
    return response
