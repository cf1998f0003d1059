"""A router that knows no app: it takes the app's broadcaster, and one of its own for the audit."""

import os
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel

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


class Order(BaseModel):
    article: str


class Entry(BaseModel):
    shop: str
    what: str


audit_broadcaster = Broadcaster(os.environ.get("AUDIT_URL", "memory://"))
audit = ChannelTemplate("audit", Entry)
orders = ChannelTemplate("shops.{shop}.orders", Order)

Orders = Annotated[Channel[Order], Depends(channel(orders))]
OrderEvents = Annotated[Subscriber[Order], Depends(subscriber(orders))]
Audit = Annotated[Channel[Entry], Depends(channel(audit, broadcaster=audit_broadcaster))]
AuditEvents = Annotated[
    Subscriber[Entry], Depends(subscriber(audit, broadcaster=audit_broadcaster))
]

router = APIRouter()


@router.post("/shops/{shop}/orders", status_code=202)
async def order(shop: str, order: Order, orders: Orders, audit: Audit) -> Receipt:
    receipt = await orders.publish(order)
    await audit.publish(Entry(shop=shop, what=f"ordered {order.article}"))
    return receipt


@router.get("/shops/{shop}/orders/events", response_class=EventStreamResponse)
async def follow(events: OrderEvents) -> EventStreamResponse:
    return EventStreamResponse(events)


@router.get("/audit/events", response_class=EventStreamResponse)
async def review(events: AuditEvents) -> EventStreamResponse:
    return EventStreamResponse(events)
