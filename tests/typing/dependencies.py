"""The web layer: bound templates, several of them, options and overrides."""

from typing import Annotated, assert_type
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Path

from fastapi_broadcaster import (
    Broadcaster,
    BroadcasterDep,
    Channel,
    ChannelTemplate,
    EventStreamResponse,
    Subscriber,
    channel,
    channel_router,
    get_broadcaster,
    map_errors,
    subscriber,
)
from fastapi_broadcaster.dependencies import ChannelDependency, SubscriberDependency
from tests.typing.example import ChatMessage, rooms

jobs = ChannelTemplate("jobs.{job_id}", int)
notices = ChannelTemplate("users.{user_id}.notices", dict[str, int])
prices = ChannelTemplate("prices.{symbol}", float)

assert_type(jobs.bind(job_id=UUID), ChannelTemplate[int])
assert_type(rooms.bind(room=Path(alias="place")), ChannelTemplate[ChatMessage])
assert_type(prices.bind(symbol="BTC"), ChannelTemplate[float])

assert_type(channel(rooms), ChannelDependency[ChatMessage])
assert_type(channel("chatroom"), ChannelDependency[str])
assert_type(subscriber("chatroom"), SubscriberDependency[str])
assert_type(subscriber(rooms), SubscriberDependency[ChatMessage])
assert_type(subscriber(rooms, jobs), SubscriberDependency[ChatMessage | int])
assert_type(
    subscriber(rooms, jobs, notices), SubscriberDependency[ChatMessage | int | dict[str, int]]
)
assert_type(
    subscriber(rooms, jobs, notices, prices),
    SubscriberDependency[ChatMessage | int | dict[str, int] | float],
)
assert_type(
    subscriber(jobs, history=None, overflow="latest", on_invalid="raise", buffer_size=1),
    SubscriberDependency[int],
)

second = Broadcaster("memory://")
app = FastAPI()
router = APIRouter(dependencies=[Depends(map_errors)])


async def current_user_id() -> str:
    return "me"


Both = Annotated[Subscriber[ChatMessage | int], Depends(subscriber(rooms, jobs.bind(job_id=UUID)))]
Mine = Annotated[
    Subscriber[dict[str, int]],
    Depends(subscriber(notices.bind(user_id=Depends(current_user_id)), broadcaster=second)),
]


@router.get(
    "/{room}/{job_id}",
    response_class=EventStreamResponse,
    responses=EventStreamResponse.docs(ChatMessage),
)
async def both(events: Both, mine: Mine, broadcaster: BroadcasterDep) -> EventStreamResponse:
    assert_type(broadcaster, Broadcaster)
    assert_type((await events.get()).message, ChatMessage | int)
    assert_type((await mine.get()).message, dict[str, int])
    await broadcaster.channel(rooms, room="x").publish(ChatMessage(user="a", text="b"))
    return EventStreamResponse(events, event="news", max_age=60, send_timeout=None)


def a_handler(room: Annotated[Channel[ChatMessage], Depends(channel(rooms))]) -> None:
    room.publish_sync(ChatMessage(user="a", text="b"))


assert_type(channel_router(rooms, "/{room}", publish=False, name="rooms"), APIRouter)
assert_type(channel_router(rooms, "/a/{room}", page=True, latest=True, envelope=True), APIRouter)
app.include_router(router)
app.dependency_overrides[get_broadcaster] = lambda: second
