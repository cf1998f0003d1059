from typing import Annotated

from fastapi import Depends, FastAPI, WebSocket
from pydantic import BaseModel

from fastapi_broadcaster import (
    Broadcaster,
    Channel,
    ChannelTemplate,
    EventStreamResponse,
    Receipt,
    Subscriber,
    channel,
    relay,
    subscriber,
)


class ChatMessage(BaseModel):
    user: str
    text: str


broadcaster = Broadcaster("memory://")
app = FastAPI(lifespan=broadcaster.lifespan)  # connects, ends streams on shutdown, disconnects

rooms = ChannelTemplate("rooms.{room}", ChatMessage)  # names and type, declared once
Room = Annotated[Channel[ChatMessage], Depends(channel(rooms))]
RoomEvents = Annotated[Subscriber[ChatMessage], Depends(subscriber(rooms, history=50))]


@app.post("/rooms/{room}", status_code=202)
async def say(message: ChatMessage, room: Room) -> Receipt:
    return await room.publish(message)


@app.get("/rooms/{room}/events", response_class=EventStreamResponse)
async def listen(events: RoomEvents) -> EventStreamResponse:
    return EventStreamResponse(events)  # ids, Last-Event-ID resume, pings, gap events


@app.websocket("/rooms/{room}/ws")
async def chat(websocket: WebSocket, events: RoomEvents, room: Room) -> None:
    await relay(websocket, events, publish_to=room)  # both directions, validated
