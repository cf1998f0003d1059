from typing import Annotated, Literal

from fastapi import Depends, FastAPI, WebSocket
from pydantic import BaseModel

from fastapi_broadcaster import (
    Broadcaster,
    BroadcasterDep,
    ChannelTemplate,
    Subscriber,
    relay,
    subscriber,
)


class ChatMessage(BaseModel):
    room: str
    text: str


class Wish(BaseModel):
    action: Literal["join", "leave", "say"]
    room: str
    text: str = ""
    after: str | None = None


rooms = ChannelTemplate("rooms.{room}", ChatMessage)
broadcaster = Broadcaster("memory://")
app = FastAPI(lifespan=broadcaster.lifespan)

Lobby = Depends(subscriber(rooms.bind(room="lobby")))


@app.websocket("/chat")
async def chat(
    websocket: WebSocket,
    events: Annotated[Subscriber[ChatMessage], Lobby],
    broadcaster: BroadcasterDep,
) -> None:
    async def fulfil(wish: Wish) -> None:
        room = broadcaster.channel(rooms, room=wish.room)
        match wish.action:
            case "join":
                await events.add(room, history=20, after=wish.after)
            case "leave":
                events.remove(room)
            case "say":
                await room.publish(ChatMessage(room=wish.room, text=wish.text))

    await relay(websocket, events, on_message=fulfil)
