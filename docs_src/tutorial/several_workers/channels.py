import os

from pydantic import BaseModel

from fastapi_broadcaster import Broadcaster, ChannelTemplate


class ChatMessage(BaseModel):
    user: str
    text: str


broadcaster = Broadcaster(os.environ.get("BROADCASTER_URL", "memory://"))
rooms = ChannelTemplate("rooms.{room}", ChatMessage)
