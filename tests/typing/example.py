"""The example of the design, as type checkers see it."""

from typing import Annotated, assert_type

from fastapi import Depends, FastAPI, WebSocket
from pydantic import BaseModel

from fastapi_broadcaster import (
    Broadcaster,
    Channel,
    ChannelTemplate,
    Event,
    EventStreamResponse,
    Receipt,
    Subscriber,
    channel,
    channel_router,
    relay,
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

assert_type(rooms, ChannelTemplate[ChatMessage])


@app.post("/rooms/{room}", status_code=202)
async def say(message: ChatMessage, room: Room) -> Receipt:
    assert_type(room, Channel[ChatMessage])
    return assert_type(await room.publish(message), Receipt)


@app.get("/rooms/{room}/events", response_class=EventStreamResponse)
async def listen(events: RoomEvents) -> EventStreamResponse:
    assert_type(events, Subscriber[ChatMessage])
    return assert_type(EventStreamResponse(events), EventStreamResponse)


@app.get("/rooms/{room}/answer")
async def answer(room: Room) -> EventStreamResponse:
    events = room.subscribe(history="all")
    return EventStreamResponse(events, until=lambda message: message.text == "end", ping=5)


@app.websocket("/rooms/{room}/ws")
async def chat(websocket: WebSocket, events: RoomEvents, room: Room) -> None:
    await relay(websocket, events, publish_to=room)


@app.websocket("/rooms/{room}/named")
async def named(websocket: WebSocket, events: RoomEvents, room: Room) -> None:
    async def on_message(message: ChatMessage) -> None:
        await room.publish(message.model_copy(update={"user": "me"}))

    await relay(websocket, events, on_message=on_message, envelope=True)


app.include_router(channel_router(rooms, "/more/{room}", history=50))


@app.post("/plain")
async def plain(
    text: str,
    lobby: Annotated[Channel[str], Depends(channel("chatroom"))],
    events: Annotated[Subscriber, Depends(subscriber("chatroom"))],
) -> Receipt:
    assert_type(events, Subscriber[str])
    assert_type(await events.get(), Event[str])
    return await lobby.publish(text)
