from typing import Annotated

from fastapi import Depends, FastAPI, WebSocket, WebSocketException
from pydantic import BaseModel

from fastapi_broadcaster import (
    Broadcaster,
    ChannelTemplate,
    Subscriber,
    relay,
    subscriber,
)

USERS = {"token-of-ada": "ada", "token-of-bob": "bob"}


class Draft(BaseModel):
    """What a client sends."""

    to: str
    text: str


class DirectMessage(BaseModel):
    """What the recipient gets: the server has added the sender."""

    sender: str
    text: str


async def current_user(token: str) -> str:
    if token not in USERS:
        raise WebSocketException(1008, "unknown token")
    return USERS[token]


broadcaster = Broadcaster("memory://")
app = FastAPI(lifespan=broadcaster.lifespan)

inboxes = ChannelTemplate("inboxes.{user}", DirectMessage)
User = Annotated[str, Depends(current_user)]
MyInbox = Annotated[
    Subscriber[DirectMessage],
    Depends(subscriber(inboxes.bind(user=Depends(current_user)))),
]


@app.websocket("/inbox")
async def inbox(websocket: WebSocket, events: MyInbox, user: User) -> None:
    async def deliver(draft: Draft) -> None:
        message = DirectMessage(sender=user, text=draft.text)
        await broadcaster.channel(inboxes, user=draft.to).publish(message)

    await relay(websocket, events, on_message=deliver)
