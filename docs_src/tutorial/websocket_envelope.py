from fastapi import FastAPI
from pydantic import BaseModel

from fastapi_broadcaster import Broadcaster, ChannelTemplate, channel_router


class ChatMessage(BaseModel):
    user: str
    text: str


broadcaster = Broadcaster("memory://")
app = FastAPI(lifespan=broadcaster.lifespan)

rooms = ChannelTemplate("rooms.{room}", ChatMessage)
app.include_router(channel_router(rooms, "/rooms/{room}", envelope=True))
