from typing import Annotated

from fastapi import Body, Depends, FastAPI

from fastapi_broadcaster import (
    Broadcaster,
    Channel,
    EventStreamResponse,
    Receipt,
    Subscriber,
    channel,
    subscriber,
)

broadcaster = Broadcaster("memory://")
app = FastAPI(lifespan=broadcaster.lifespan)

News = Annotated[Channel[str], Depends(channel("news"))]
NewsEvents = Annotated[Subscriber[str], Depends(subscriber("news"))]


@app.post("/news", status_code=202)
async def tell(text: Annotated[str, Body()], news: News) -> Receipt:
    return await news.publish(text)


@app.get("/news/events", response_class=EventStreamResponse)
async def listen(events: NewsEvents) -> EventStreamResponse:
    return EventStreamResponse(events)
