"""One channel of prices for clients that read and clients that do not."""

import os
from typing import Annotated

from fastapi import Depends, FastAPI, WebSocket

from fastapi_broadcaster import (
    Broadcaster,
    BroadcasterDep,
    EventStreamResponse,
    Health,
    Subscriber,
    relay,
    subscriber,
)

SEND_TIMEOUT = float(os.environ["SEND_TIMEOUT"])
broadcaster = Broadcaster("memory://")
app = FastAPI(lifespan=broadcaster.lifespan)
Events = Annotated[Subscriber[str], Depends(subscriber("feed"))]


@app.get("/events", response_class=EventStreamResponse)
async def listen(events: Events) -> EventStreamResponse:
    return EventStreamResponse(events, send_timeout=SEND_TIMEOUT)


@app.websocket("/ws")
async def connect(websocket: WebSocket, events: Events) -> None:
    await relay(websocket, events, send_timeout=SEND_TIMEOUT)


@app.post("/publish")
async def publish(first: int, last: int, size: int, broadcaster: BroadcasterDep) -> None:
    """Publish numbered messages, each filled up to `size` characters."""
    for number in range(first, last):
        await broadcaster.publish("feed", f"#{number} ".ljust(size, "x"))


@app.get("/health")
async def health(broadcaster: BroadcasterDep) -> Health:
    return broadcaster.health()
