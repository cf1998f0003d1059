"""Without FastAPI: workers, scripts and threads."""

from collections.abc import AsyncGenerator, Mapping
from datetime import datetime, timedelta
from typing import assert_type

from fastapi_broadcaster import (
    Broadcast,
    Broadcaster,
    Channel,
    ChannelTemplate,
    Event,
    Gap,
    Health,
    Page,
    Receipt,
    Subscriber,
    Subscription,
)
from tests.typing.example import ChatMessage, rooms


async def plain_text() -> None:
    async with Broadcast("redis-stream://localhost:6379") as broadcast:  # noqa: SIM117
        async with broadcast.subscribe(channel="chatroom", history=100) as subscriber:
            receipt = await broadcast.publish(channel="chatroom", message="hello")
            assert_type(receipt, Receipt)
            assert_type(receipt.id, str | None)
            async for event in subscriber:
                assert_type(event, Event[str])
                assert_type(event.channel, str)
                assert_type(event.message, str)
                assert_type(event.id, str | None)
                assert_type(event.time, datetime | None)
                assert_type(event.params, Mapping[str, str])


async def typed(broadcaster: Broadcaster) -> None:
    assert_type(Broadcast("memory://"), Broadcaster)
    lobby = assert_type(broadcaster.channel(rooms, room="lobby"), Channel[ChatMessage])
    assert_type(broadcaster.channel("chatroom"), Channel[str])
    assert_type(broadcaster.channel("raw", bytes), Channel[bytes])
    assert_type(broadcaster.channel("many", list[ChatMessage]), Channel[list[ChatMessage]])
    assert_type(lobby.name, str)
    assert_type(lobby.publish_sync(ChatMessage(user="a", text="b")), Receipt)
    assert_type(broadcaster.publish_sync("chatroom", "text"), Receipt)
    assert_type(lobby.subscribe(after="id", overflow="close"), Subscription[ChatMessage])
    assert_type(lobby.subscribe(history=timedelta(hours=1)), Subscription[ChatMessage])
    page = assert_type(await lobby.page(limit=10, before="id"), Page[ChatMessage])
    assert_type(page.items, list[Event[ChatMessage]])
    assert_type(page.next, str | None)
    assert_type(page.previous, str | None)
    assert_type(broadcaster.health(), Health)
    assert_type(broadcaster.has_history, bool)


async def subscriptions(broadcaster: Broadcaster, lobby: Channel[ChatMessage]) -> None:
    assert_type(broadcaster.subscribe("chatroom"), Subscription[str])
    assert_type(broadcaster.subscribe(["a", "b"]), Subscription[str])
    assert_type(broadcaster.subscribe(lobby), Subscription[ChatMessage])
    assert_type(broadcaster.subscribe([lobby, lobby]), Subscription[ChatMessage])
    assert_type(broadcaster.subscribe(pattern="rooms.*"), Subscription[str])
    assert_type(broadcaster.subscribe(pattern=rooms), Subscription[ChatMessage])
    async with broadcaster.subscribe(pattern=rooms, latest=False) as subscriber:
        assert_type(subscriber, Subscriber[ChatMessage])
        assert_type(subscriber.cursor, str | None)
        assert_type(subscriber.gaps, int)
        assert_type(subscriber.channels, tuple[str, ...])
        assert_type(await subscriber.get(), Event[ChatMessage])
        assert_type(subscriber.stream(), AsyncGenerator[Event[ChatMessage] | Gap])
        mine = subscriber.filter(lambda event: event.message.user == "me")
        assert_type(mine, Subscriber[ChatMessage])
        async for item in mine.stream():
            if isinstance(item, Gap):
                assert_type(item.missed, int | None)
            else:
                assert_type(item.message, ChatMessage)


async def union(broadcaster: Broadcaster, a: Channel[int], b: Channel[str]) -> None:
    one = ChannelTemplate("a", int)
    assert_type(one, ChannelTemplate[int])
    assert_type(ChannelTemplate("plain.{x}"), ChannelTemplate[str])
    async with a.subscribe() as numbers, b.subscribe() as texts:
        assert_type((await numbers.get()).message, int)
        assert_type((await texts.get()).message, str)
