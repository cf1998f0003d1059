"""What clients other than a browser's own EventSource need, to lose nothing."""

import asyncio
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_broadcaster import Broadcaster, EventStreamResponse, Subscriber, subscriber

Events = Annotated[Subscriber[str], Depends(subscriber("c"))]
PATIENCE = 20.0  # seconds


def test_substitutes_for_an_event_source_resume() -> None:
    """event-source-polyfill and reconnecting-eventsource put `?lastEventId=` behind the URL."""
    broadcaster = Broadcaster("memory://")
    app = FastAPI(lifespan=broadcaster.lifespan)

    @app.get("/next")
    async def next_message(events: Events) -> str:
        async with asyncio.timeout(PATIENCE):
            return (await events.get()).message

    @app.get("/events", response_class=EventStreamResponse)
    async def listen(events: Events) -> EventStreamResponse:
        return EventStreamResponse(events)

    with TestClient(app) as client:
        one, two, _ = (broadcaster.publish_sync("c", text).id for text in "abc")
        assert client.get(f"/next?lastEventId={two}").json() == "c"
        # the page's own one is older than that of its EventSource, which has gone on since
        assert client.get(f"/next?last_event_id={one}&lastEventId={two}").json() == "c"
        header = {"Last-Event-ID": str(two)}
        assert client.get(f"/next?lastEventId={one}", headers=header).json() == "c"
        assert client.get("/events?lastEventId=~end").status_code == 204
