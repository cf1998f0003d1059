from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from fastapi_broadcaster import Broadcast, relay

broadcast = Broadcast("memory://")


async def chatroom(websocket: WebSocket) -> None:
    async with broadcast.subscribe(channel="chatroom") as subscriber:
        await relay(websocket, subscriber, publish_to=broadcast.channel("chatroom"))


app = Starlette(routes=[WebSocketRoute("/", chatroom)], lifespan=broadcast.lifespan)
