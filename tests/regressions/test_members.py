"""Channels that join and leave a stream, and the ids that it then has."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

import pytest

from fastapi_broadcaster import (
    Broadcaster,
    EventStreamResponse,
    Gap,
    HistoryBackend,
    Message,
    Unsubscribed,
)
from fastapi_broadcaster.messages import Cursor, Position
from tests.conformance.tools import publish_all, take, take_until, until
from tests.regressions.peers import Browser, opened

HUNDRED = [f"b{number}" for number in range(100)]


@pytest.mark.parametrize("beginning", ["all", "after"])
async def test_added_while_a_round_begins(beginning: str) -> None:
    """The round took the channel for one whose history had been read."""
    async with Broadcaster("memory://", buffer_size=10) as broadcaster:
        ids = [(await broadcaster.publish("b", one)).id for one in HUNDRED]
        async with broadcaster.subscribe("b"), broadcaster.subscribe("a") as subscriber:
            await publish_all(broadcaster, "a", [f"a{number}" for number in range(11)])
            await until(lambda: subscriber.inbox.behind)
            await take(subscriber, 10)  # one is left in the log
            options: Any = {"history": "all"} if beginning == "all" else {"after": ids[95]}
            event, _ = await asyncio.gather(subscriber.get(), subscriber.add("b", **options))
            await broadcaster.publish("b", "end")
            found = [event.message, *await take_until(subscriber, "end")]
        wanted = HUNDRED if beginning == "all" else HUNDRED[96:]
        assert [one for one in found if one[0] == "b"] == wanted
        assert subscriber.gaps == 0


class Counting(HistoryBackend):
    """Each channel counts for itself, and says no more in its ids."""

    def __init__(self) -> None:
        self._logs: dict[str, list[Message]] = defaultdict(list)
        self._heard: asyncio.Queue[Message] = asyncio.Queue()

    async def connect(self) -> None: ...

    async def disconnect(self) -> None: ...

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, Cursor]:
        return {name: {"": len(self._logs[name]) - 1} for name in channels}

    async def unsubscribe(self, channels: Collection[str]) -> None: ...

    async def publish(self, messages: Sequence[Message]) -> Sequence[Position]:
        positions = []
        for message in messages:
            log = self._logs[message.channel]
            message.position = ("", len(log))
            positions.append(message.position)
            log.append(message)
            self._heard.put_nowait(message)
        return positions

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        yield ()
        while True:
            yield [await self._heard.get()]

    async def history(
        self, channel: str, *, after: Cursor | None = None, limit: int, **_: Any
    ) -> list[Message]:
        log = self._logs[channel]
        return log[-limit:] if after is None else log[after.get("", -1) + 1 :][:limit]

    def parse(self, id: str) -> Cursor:
        return {"": int(id)}

    def format(self, cursor: Cursor) -> str:
        return str(cursor.get("", -1))


async def test_the_id_of_what_was_added_is_none_of_what_was_removed() -> None:
    async with Broadcaster(backend=Counting()) as broadcaster:
        await publish_all(broadcaster, "room", list("012"))
        async with broadcaster.subscribe("lobby") as subscriber:
            await subscriber.add("room")
            subscriber.remove("lobby")
            await broadcaster.publish("room", "3")
            id = (await subscriber.get()).id
        await publish_all(broadcaster, "lobby", list("abcdef"))
        async with broadcaster.subscribe("lobby", after=id) as resumed:
            await broadcaster.publish("lobby", "end")
            found = await take_until(resumed, "end")
        assert found == [Gap("lobby", "reset"), *"abcdef"]


async def test_ids_of_several_channels_stay_with_their_stream() -> None:
    """Two streams of one channel share its frames, but not an id of one that hears more."""
    async with (
        Broadcaster("memory://") as broadcaster,
        broadcaster.subscribe("a") as growing,
        broadcaster.subscribe("a") as plain,
        broadcaster.subscribe(["a", "z"]) as both,
    ):
        browsers = [Browser(), Browser(), Browser()]
        async with (
            opened(EventStreamResponse(growing), browsers[0]),
            opened(EventStreamResponse(plain), browsers[1]),
            opened(EventStreamResponse(both), browsers[2]),
        ):
            await until(lambda: all(browser.begun for browser in browsers))
            await growing.add("secret")
            receipt = await broadcaster.publish("a", "hello")
            await until(lambda: all(browser.data for browser in browsers))
        ids = [re.findall(r"^id: (.+)$", browser.body.decode(), re.M)[-1] for browser in browsers]
        assert ids[1] == receipt.id
        assert ids[0].startswith("~m.")
        assert ids[2].startswith("~m.")
        async with broadcaster.subscribe(["a", "z"], after=ids[2]) as resumed:
            await broadcaster.publish("a", "more")
            assert await take_until(resumed, "more") == []


async def test_a_pattern_has_no_members() -> None:
    async with (
        Broadcaster("memory://") as broadcaster,
        broadcaster.subscribe(pattern="rooms.*") as subscriber,
    ):
        await broadcaster.publish("rooms.1", "hello")
        with pytest.raises(TypeError, match="pattern"):
            subscriber.remove("rooms.*")
        assert await take(subscriber, 1) == ["hello"]


async def test_a_channel_of_another_broadcaster_is_refused() -> None:
    """Its name was heard at this one, and what was published on it was not."""
    async with Broadcaster("memory://") as broadcaster, Broadcaster("memory://") as other:
        ours, theirs = broadcaster.channel("ours"), other.channel("theirs")
        for chosen in (theirs, [ours, theirs]):
            with pytest.raises(ValueError, match="'theirs' is one of another broadcaster"):
                broadcaster.subscribe(chosen)
        async with broadcaster.subscribe(["ours", "theirs"]) as subscriber:
            with pytest.raises(ValueError, match="'theirs' is one of another broadcaster"):
                await subscriber.add(theirs)
            with pytest.raises(ValueError, match="'theirs' is one of another broadcaster"):
                subscriber.remove(theirs)
            assert subscriber.channels == ("ours", "theirs")


async def test_who_has_left_hears_no_more_channels() -> None:
    """It returned as if the channel were live."""
    async with Broadcaster("memory://") as broadcaster:
        async with broadcaster.subscribe("a") as subscriber:
            pass
        with pytest.raises(Unsubscribed, match="hears no more channels"):
            await subscriber.add("b")
        subscriber.remove("b")
        async with broadcaster.subscribe("a") as drained:
            drained_all = broadcaster.drain()
            await drained.add("b")  # nothing: its reader is told
            with pytest.raises(Unsubscribed):
                await drained.get()
        await drained_all
