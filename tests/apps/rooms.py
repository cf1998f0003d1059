"""Generated routes: rooms of several types, pages, what streams begin with, envelopes."""

import os
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi.requests import HTTPConnection
from pydantic import BaseModel, Field

from fastapi_broadcaster import (
    Broadcaster,
    Channel,
    ChannelTemplate,
    EventStreamResponse,
    Subscriber,
    channel,
    channel_router,
    subscriber,
)

broadcaster = Broadcaster(os.environ.get("BROADCASTER_URL", "memory://"), linger=0.05)
app = FastAPI(lifespan=broadcaster.lifespan)


class Said(BaseModel):
    text: str
    like_count: int = Field(default=0, alias="likeCount")


async def check_key(connection: HTTPConnection) -> None:
    if connection.query_params.get("key") != "open":
        raise HTTPException(403)


rooms = ChannelTemplate("rooms.{room}", Said)
texts = ChannelTemplate("texts.{room}", str)
BLOBS = ChannelTemplate("blobs", bytes)
ANYTHING = ChannelTemplate("anything", Any)
GUARD = [Depends(check_key)]

app.include_router(channel_router(rooms, "/rooms/{room}", envelope=True))
app.include_router(channel_router(texts, "/texts/{room}"))
app.include_router(channel_router(texts, "/texts-in", name="texts_in"))
app.include_router(channel_router(texts, "/guarded/{room}", subscribe_dependencies=GUARD, name="g"))
app.include_router(channel_router(BLOBS, "/blobs"))
app.include_router(channel_router(ANYTHING, "/anything"))


@app.post("/fill/{room}")
async def fill(target: Annotated[Channel[str], Depends(channel(texts))], count: int) -> list[str]:
    """Publish the numbers from 0 on."""
    return [(await target.publish(str(number))).id or "" for number in range(count)]


@app.post("/say/{room}")
async def say(target: Annotated[Channel[Said], Depends(channel(rooms))], count: int) -> list[str]:
    """The same, as what somebody said."""
    receipts = [await target.publish(Said(text=str(number))) for number in range(count)]
    return [receipt.id or "" for receipt in receipts]


@app.get("/own-behind/{room}/events", response_class=EventStreamResponse)
async def follow_behind(
    target: Annotated[Channel[str], Depends(channel(texts))], behind: str
) -> EventStreamResponse:
    return EventStreamResponse(target.subscribe(after=behind))


# what a stream begins with: by the generated routes, and by `subscriber(...)`
BEGINNINGS: dict[str, dict[str, Any]] = {
    "two": {"history": 2},
    "all": {"history": "all"},
    "hour": {"history": timedelta(hours=1)},
    "now": {"history": timedelta(0)},
    "latest": {"latest": True},
}


def own_route(options: dict[str, Any]) -> Any:
    async def follow(events: Any) -> EventStreamResponse:
        return EventStreamResponse(events)

    follow.__annotations__["events"] = Annotated[
        Subscriber[str], Depends(subscriber(texts, **options))
    ]
    return follow


if broadcaster.has_history:
    for name, options in BEGINNINGS.items():
        app.include_router(
            channel_router(texts, f"/{name}/{{room}}", name=name, envelope=True, **options)
        )
        app.get(f"/own-{name}/{{room}}/events", response_class=EventStreamResponse)(
            own_route(options)
        )
