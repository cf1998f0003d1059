"""A dashboard: three channels of a shop on one stream, each with its last value first.

uvicorn examples.dashboard:app
curl -N localhost:8000/shops/lisbon/events
curl -d '{"online": 12}' -H 'content-type: application/json' localhost:8000/shops/lisbon/visitors
"""

from typing import Annotated, Literal

from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from fastapi_broadcaster import (
    Broadcaster,
    ChannelTemplate,
    EventStreamResponse,
    Subscriber,
    channel_router,
    subscriber,
)


class Visitors(BaseModel):
    kind: Literal["visitors"] = "visitors"
    online: int


class Order(BaseModel):
    kind: Literal["order"] = "order"
    article: str
    euros: float


class Alert(BaseModel):
    kind: Literal["alert"] = "alert"
    text: str


visitors = ChannelTemplate("shops.{shop}.visitors", Visitors)
orders = ChannelTemplate("shops.{shop}.orders", Order)
alerts = ChannelTemplate("shops.{shop}.alerts", Alert)
Everything = Annotated[
    Subscriber[Visitors | Order | Alert],
    Depends(subscriber(visitors, orders, alerts, latest=True)),
]

broadcaster = Broadcaster("memory://")
app = FastAPI(title="Dashboard", lifespan=broadcaster.lifespan)
app.include_router(channel_router(visitors, "/shops/{shop}/visitors", stream=False))
app.include_router(channel_router(orders, "/shops/{shop}/orders", stream=False))
app.include_router(channel_router(alerts, "/shops/{shop}/alerts", stream=False))


@app.get("/shops/{shop}/events", response_class=EventStreamResponse)
async def listen(everything: Everything) -> EventStreamResponse:
    return EventStreamResponse(everything)


PAGE = """<!doctype html><meta charset="utf-8"><title>Dashboard</title>
<dl>
  <dt>Visitors <dd id="visitors">-
  <dt>Last order <dd id="order">-
  <dt>Last alert <dd id="alert">-
</dl>
<script>
const show = {
  visitors: message => message.online,
  order: message => `${message.article}, ${message.euros} €`,
  alert: message => message.text,
}
new EventSource(location.pathname + "/events").onmessage = event => {
  const message = JSON.parse(event.data)
  document.getElementById(message.kind).textContent = show[message.kind](message)
}
</script>"""


@app.get("/shops/{shop}", response_class=HTMLResponse)
async def page(shop: str) -> str:
    return PAGE
