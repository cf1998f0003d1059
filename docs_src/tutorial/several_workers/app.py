from typing import Annotated

from fastapi import Depends, FastAPI

from fastapi_broadcaster import (
    Channel,
    EventStreamResponse,
    Receipt,
    Subscriber,
    channel,
    subscriber,
)

from .channels import ChatMessage, broadcaster, rooms

app = FastAPI(lifespan=broadcaster.lifespan)

history = 50 if broadcaster.has_history else None
Room = Annotated[Channel[ChatMessage], Depends(channel(rooms))]
RoomEvents = Annotated[Subscriber[ChatMessage], Depends(subscriber(rooms, history=history))]


@app.post("/rooms/{room}", status_code=202)
async def say(message: ChatMessage, room: Room) -> Receipt:
    return await room.publish(message)


@app.get("/rooms/{room}/events", response_class=EventStreamResponse)
async def listen(events: RoomEvents) -> EventStreamResponse:
    return EventStreamResponse(events)
