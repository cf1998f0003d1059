from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

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


class ChatMessage(BaseModel):
    user: str
    text: str


broadcaster = Broadcaster("memory://")
app = FastAPI(lifespan=broadcaster.lifespan)

rooms = ChannelTemplate("rooms.{room}", ChatMessage)
Room = Annotated[Channel[ChatMessage], Depends(channel(rooms))]
RoomEvents = Annotated[Subscriber[ChatMessage], Depends(subscriber(rooms, history=50))]

PAGE = """<!doctype html>
<title>Lobby</title>
<ul id="log"></ul>
<script>
  function show(text) {
    const line = document.createElement("li");
    line.textContent = text;
    document.getElementById("log").append(line);
  }
  const events = new EventSource("/rooms/lobby/events");
  events.onmessage = (event) => {
    const { user, text } = JSON.parse(event.data);
    show(`${user}: ${text}`);
  };
  events.addEventListener("gap", () => show("Messages may be missing here."));
</script>
"""


@app.get("/", response_class=HTMLResponse)
async def lobby() -> str:
    return PAGE


@app.post("/rooms/{room}", status_code=202)
async def say(message: ChatMessage, room: Room) -> Receipt:
    return await room.publish(message)


@app.get("/rooms/{room}/events", response_class=EventStreamResponse)
async def listen(events: RoomEvents) -> EventStreamResponse:
    return EventStreamResponse(events)


@app.get("/rooms/{room}/history")
async def look_back(room: Room, before: str | None = None) -> Page[ChatMessage]:
    return await room.page(limit=20, before=before)
