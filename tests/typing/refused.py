"""What must not pass a type checker: each ignore is an error of its own when it is not needed."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from fastapi import WebSocket

from fastapi_broadcaster import (
    Broadcaster,
    Channel,
    ChannelTemplate,
    EventStreamResponse,
    Subscriber,
    Subscription,
    channel_router,
    relay,
    subscriber,
)
from tests.typing.example import ChatMessage, rooms
from tests.typing.types_of_channels import Numbers


async def publishing(broadcaster: Broadcaster, room: Channel[ChatMessage]) -> None:
    await room.publish("text")  # type: ignore[arg-type]
    await room.publish({"user": "a", "text": "b"})  # type: ignore[arg-type]
    room.publish_sync(1)  # type: ignore[arg-type]
    await broadcaster.publish("chatroom", 1)  # type: ignore[arg-type]
    await broadcaster.channel("chatroom").publish(b"bytes")  # type: ignore[arg-type]
    await broadcaster.channel("raw", bytes).publish("text")  # type: ignore[arg-type]
    broadcaster.channel("chatroom", room="x")  # type: ignore[call-overload]


def options(broadcaster: Broadcaster, room: Channel[ChatMessage]) -> None:
    room.subscribe(history="some")  # type: ignore[arg-type]
    room.subscribe(overflow="wait")  # type: ignore[arg-type]
    room.subscribe(on_invalid="ignore")  # type: ignore[arg-type]
    room.subscribe(hystory=1)  # type: ignore[call-arg]
    subscriber(rooms, histroy=1)  # type: ignore[call-overload]
    broadcaster.subscribe(1)  # type: ignore[call-overload]
    broadcaster.subscribe()  # type: ignore[call-overload]
    broadcaster.subscribe("a", pattern="b")  # type: ignore[call-overload]
    Broadcaster("memory://", buffersize=1)  # type: ignore[call-arg]
    Broadcaster(backend="memory://")  # type: ignore[arg-type]
    subscriber()  # type: ignore[call-overload]
    subscriber(1)  # type: ignore[call-overload]
    ChannelTemplate("a", str, serializer=Numbers())  # type: ignore[misc]


async def reading(events: Subscriber[ChatMessage], websocket: WebSocket) -> None:
    print((await events.get()).message.txt)  # type: ignore[attr-defined]
    events.filter(lambda event: event.message.txt == "")  # type: ignore[attr-defined]
    EventStreamResponse(events, until=lambda message: message.done)  # type: ignore[attr-defined]
    EventStreamResponse("events")  # type: ignore[arg-type]
    await relay(websocket, events, publish_to="room")  # type: ignore[arg-type]
    async for item in events.stream():
        print(item.message)  # type: ignore[union-attr]


def wrong_types(broadcaster: Broadcaster, room: Channel[ChatMessage]) -> None:
    texts: Subscription[str] = room.subscribe()  # type: ignore[assignment]
    numbers: Channel[int] = broadcaster.channel(rooms, room="a")  # type: ignore[arg-type]
    many: ChannelTemplate[int] = ChannelTemplate("a", str)  # type: ignore[arg-type]
    channel_router("rooms.{room}", "/rooms/{room}")  # type: ignore[arg-type]
    print(texts, numbers, many)
