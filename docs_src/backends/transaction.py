import os
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from fastapi_broadcaster import (
    Broadcaster,
    Channel,
    ChannelTemplate,
    EventStreamResponse,
    Subscriber,
    channel,
    subscriber,
)

DATABASE = os.environ.get("DATABASE", "postgres@localhost/postgres")


class Order(BaseModel):
    item: str
    pieces: int


broadcaster = Broadcaster(f"postgres-stream://{DATABASE}")
engine = create_async_engine(f"postgresql+asyncpg://{DATABASE}")
app = FastAPI(lifespan=broadcaster.lifespan)

orders = ChannelTemplate("orders.{customer}", Order)
Orders = Annotated[Channel[Order], Depends(channel(orders))]
OrderEvents = Annotated[Subscriber[Order], Depends(subscriber(orders, history=50))]


@app.post("/orders/{customer}", status_code=201)
async def place(order: Order, placed: Orders) -> None:
    async with AsyncSession(engine) as session, session.begin():
        await placed.publish(order, connection=session)  # heard after the commit, or never
        taken = await session.scalar(
            text("update stock set pieces = pieces - :pieces where item = :item returning pieces"),
            order.model_dump(),
        )
        if taken is None or taken < 0:
            raise HTTPException(409, "sold out")  # takes everything back, the message included


@app.get("/orders/{customer}/events", response_class=EventStreamResponse)
async def listen(events: OrderEvents) -> EventStreamResponse:
    return EventStreamResponse(events)
