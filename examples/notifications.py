"""Notifications: users hear their own channel and nobody else's, whatever they ask for.

uvicorn examples.notifications:app
curl -N -b session=ines-session localhost:8000/notifications
curl -b session=admin-session -d '{"title": "Your parcel is here"}' \
     -H 'content-type: application/json' localhost:8000/users/ines/notifications
"""

from typing import Annotated

from fastapi import Cookie, Depends, FastAPI, HTTPException
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

SESSIONS = {"ines-session": "ines", "tomas-session": "tomas", "admin-session": "admin"}


class Notification(BaseModel):
    title: str
    body: str = ""


async def current_user(session: Annotated[str | None, Cookie()] = None) -> str:
    """Stands for your own log-in; a browser's EventSource sends cookies by itself."""
    if session not in SESSIONS:
        raise HTTPException(401, "log in first")
    return SESSIONS[session]


async def admin(user: Annotated[str, Depends(current_user)]) -> None:
    if user != "admin":
        raise HTTPException(403, "only an admin may notify others")


broadcaster = Broadcaster("memory://")
app = FastAPI(title="Notifications", lifespan=broadcaster.lifespan)

notifications = ChannelTemplate("users.{user_id}.notifications", Notification)
own = notifications.bind(user_id=Depends(current_user))
Inbox = Annotated[Subscriber[Notification], Depends(subscriber(own, history="all"))]
Outbox = Annotated[Channel[Notification], Depends(channel(notifications))]


@app.get("/notifications", response_class=EventStreamResponse)
async def listen(inbox: Inbox) -> EventStreamResponse:
    return EventStreamResponse(inbox)


@app.post("/users/{user_id}/notifications", status_code=202, dependencies=[Depends(admin)])
async def notify(notification: Notification, outbox: Outbox) -> Receipt:
    return await outbox.publish(notification)
