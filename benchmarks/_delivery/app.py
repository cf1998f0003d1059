"""The app that is broken: it publishes lines of numbers, and streams them.

POST /publish/{line}     publishes a range and tells of each message, as soon as it is known
GET  /events/{line}      Server-Sent Events
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse

from fastapi_broadcaster import (
    BackendUnavailableError,
    Backoff,
    Broadcaster,
    Channel,
    ChannelTemplate,
    EventStreamResponse,
    Subscriber,
    channel,
    subscriber,
)

broadcaster = Broadcaster(
    os.environ["BROADCASTER_URL"],
    publish_timeout=1.0,  # short, so that an outage also refuses messages
    backoff=Backoff(first=0.1, cap=0.5),  # so that a run spends its time publishing
)
app = FastAPI(lifespan=broadcaster.lifespan)
lines = ChannelTemplate("delivery.{line}", str)


@app.post("/publish/{line}")
async def publish(
    target: Annotated[Channel[str], Depends(channel(lines))],
    publisher: int,
    first: int,
    count: int,
    pause: float,
) -> StreamingResponse:
    async def outcomes() -> AsyncIterator[str]:
        for number in range(first, first + count):
            begun, outcome = time.monotonic(), "acknowledged"
            try:
                await target.publish(f"{publisher} {number}")
            except BackendUnavailableError as error:
                outcome = "maybe" if error.maybe_published else "refused"
            yield f"{number} {outcome} {begun:.6f} {time.monotonic():.6f}\n"
            await asyncio.sleep(pause)

    return StreamingResponse(outcomes())


@app.get("/events/{line}", response_class=EventStreamResponse)
async def events(
    events: Annotated[Subscriber[str], Depends(subscriber(lines))],
) -> EventStreamResponse:
    return EventStreamResponse(events)
