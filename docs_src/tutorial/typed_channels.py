from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel

from fastapi_broadcaster import (
    Broadcaster,
    Channel,
    ChannelTemplate,
    EventStreamResponse,
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
RoomEvents = Annotated[Subscriber[ChatMessage], Depends(subscriber(rooms))]


@app.post("/rooms/{room}", status_code=202)
async def say(message: ChatMessage, room: Room) -> Receipt:
    return await room.publish(message)


@app.get("/rooms/{room}/events", response_class=EventStreamResponse)
async def listen(events: RoomEvents) -> EventStreamResponse:
    return EventStreamResponse(events)
