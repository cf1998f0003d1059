"""Numbers, and the page of a browser that follows them with an `EventSource`."""

import os
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse

from fastapi_broadcaster import (
    Broadcaster,
    Channel,
    ChannelTemplate,
    EventStreamResponse,
    Receipt,
    Subscriber,
    channel,
    subscriber,
)

broadcaster = Broadcaster(os.environ.get("BROADCASTER_URL", "memory://"))
app = FastAPI(lifespan=broadcaster.lifespan)
numbers = ChannelTemplate("numbers", int)
PAGE = """<!doctype html>
<title>Numbers</title>
<script>
const seen = [];
let opened = 0;
const events = new EventSource("/numbers/events");
events.onopen = () => { opened += 1; };
events.onmessage = event => { seen.push(Number(event.data)); };
events.addEventListener("gap", event => { seen.push(JSON.parse(event.data).reason); });
</script>
"""


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    return PAGE


@app.get("/numbers/events", response_class=EventStreamResponse)
async def follow(
    events: Annotated[Subscriber[int], Depends(subscriber(numbers))],
) -> EventStreamResponse:
    return EventStreamResponse(events)


@app.post("/numbers/{number}", status_code=202)
async def say(number: int, target: Annotated[Channel[int], Depends(channel(numbers))]) -> Receipt:
    return await target.publish(number)
