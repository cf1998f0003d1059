"""Event streams and WebSockets that hurt others, lost events, or kept too much."""

from __future__ import annotations

import asyncio
import gc
import re
import weakref
from typing import Any

import pytest
from fastapi import HTTPException

from fastapi_broadcaster import (
    Broadcaster,
    ChannelTemplate,
    EventStreamResponse,
    SerializationError,
    relay,
)
from tests.conformance.tools import PATIENCE, take, until
from tests.regressions.peers import GET, Browser, Page, opened

numbers = ChannelTemplate("numbers", int)


class Dying(Browser):
    """Behind a middleware whose helper task was cancelled: `send` raises that at once."""

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.sends > 2:
            dead = asyncio.get_running_loop().create_future()
            dead.cancel()
            await dead


async def test_a_cancellation_out_of_one_streams_send_hurts_no_other() -> None:
    async with (
        Broadcaster("memory://") as broadcaster,
        broadcaster.subscribe("c") as dying,
        broadcaster.subscribe("c") as subscriber,
    ):
        browser = Dying()
        async with opened(EventStreamResponse(dying), browser):
            await until(lambda: browser.begun)
            for message in ("1", "2", "3"):
                await broadcaster.publish("c", message)
                assert await take(subscriber, 1) == [message]
            assert broadcaster.health().reconnects == 0


class Packed:
    """A serializer of the user's own, for what JSON cannot express."""

    media_type = "application/x-packed"

    def dumps(self, message: dict[str, bytes], /) -> bytes:
        return message["b"]

    def loads(self, data: bytes, /) -> dict[str, bytes]:
        return {"b": data}


packed = ChannelTemplate("packed", dict[str, bytes], serializer=Packed())


async def test_events_before_a_poisoned_one_reach_the_browser() -> None:
    """All three were published in one turn of the loop, so that they leave together."""
    async with Broadcaster("memory://") as broadcaster:
        channel, browser = broadcaster.channel(numbers), Browser()
        async with channel.subscribe(on_invalid="raise") as subscriber:
            async with opened(EventStreamResponse(subscriber), browser) as response:
                await until(lambda: browser.begun)
                await channel.publish(1)
                await channel.publish(2)
                await broadcaster.publish("numbers", "poison")
                async with asyncio.timeout(PATIENCE):
                    await response
            assert browser.data == [1, 2]
            assert isinstance(subscriber.inbox.error, SerializationError)


async def test_a_message_that_until_fails_on_is_skipped() -> None:
    async with Broadcaster("memory://") as broadcaster:
        channel, browser = broadcaster.channel(numbers), Browser()
        async with channel.subscribe() as subscriber:
            response = EventStreamResponse(subscriber, until=lambda number: 1 / number < 0)
            async with opened(response, browser):
                await until(lambda: browser.begun)
                for number in (1, 0, 2, -1, 3):
                    await channel.publish(number)
                await until(lambda: b"event: end" in browser.body)
            assert browser.data == [1, 2, -1]
            assert subscriber.invalid == 1


async def test_what_json_cannot_express_is_skipped_by_event_streams() -> None:
    async with Broadcaster("memory://") as broadcaster:
        channel, browser = broadcaster.channel(packed), Browser()
        async with channel.subscribe() as subscriber:
            async with opened(EventStreamResponse(subscriber), browser):
                await until(lambda: browser.begun)
                for data in (b"before", b"\xff", b"behind"):
                    await channel.publish({"b": data})
                await until(lambda: b"behind" in browser.body)
            assert browser.data == [{"b": "before"}, {"b": "behind"}]
            assert subscriber.invalid == 1


@pytest.mark.parametrize("envelope", [False, True])
async def test_what_json_cannot_express_is_skipped_by_sockets(envelope: bool) -> None:
    async with Broadcaster("memory://") as broadcaster:
        channel, page = broadcaster.channel(packed), Page()
        async with channel.subscribe() as subscriber:
            relaying = asyncio.create_task(relay(page.socket, subscriber, envelope=envelope))
            await until(lambda: page.socket.application_state.name == "CONNECTED" and page.read)
            for data in (b"before", b"\xff", b"behind"):
                await channel.publish({"b": data})
            await until(lambda: "behind" in str(page.sent))
            page.leave()
            async with asyncio.timeout(PATIENCE):
                await relaying
            assert "before" in str(page.sent)
            assert subscriber.invalid == 1


async def test_events_before_a_poisoned_one_reach_the_socket() -> None:
    async with Broadcaster("memory://") as broadcaster:
        channel, page = broadcaster.channel(numbers), Page()
        async with channel.subscribe(on_invalid="raise") as subscriber:
            relaying = asyncio.create_task(relay(page.socket, subscriber, envelope=True))
            await until(lambda: page.socket.application_state.name == "CONNECTED" and page.read)
            await channel.publish(1)
            await channel.publish(2)
            await broadcaster.publish("numbers", "poison")
            async with asyncio.timeout(PATIENCE):
                await relaying
    _, *told = [one for frame in page.sent for one in frame]  # the first is `ready`
    assert [one["message"] for one in told] == [1, 2]
    assert page.closed is not None


@pytest.mark.parametrize("envelope", [False, True])
async def test_garbage_from_a_client_that_reads_nothing_is_not_kept(envelope: bool) -> None:
    async with Broadcaster("memory://") as broadcaster:
        channel, page = broadcaster.channel(numbers), Page()
        async with channel.subscribe() as subscriber:
            page.reads.clear()
            relaying = asyncio.create_task(
                relay(page.socket, subscriber, publish_to=channel, envelope=envelope)
            )
            for _ in range(5_000):
                page.write("garbage")
            await until(lambda: page.read)
            page.reads.set()
            page.write("1")
            await until(lambda: page.sent and not re.search("error|ready", str(page.sent[-1])))
            page.leave()
            async with asyncio.timeout(PATIENCE):
                await relaying
    told = [one for frame in page.sent for one in (frame if envelope else [frame])]
    assert 1 <= len(told) < 100
    assert told[envelope]["error"] == "SerializationError"  # behind `ready`


async def test_the_complaint_about_a_frame_is_short_however_much_is_wrong_with_it() -> None:
    lists = ChannelTemplate("lists", list[int])
    async with Broadcaster("memory://") as broadcaster:
        channel, page = broadcaster.channel(lists), Page()
        async with channel.subscribe() as subscriber:
            relaying = asyncio.create_task(relay(page.socket, subscriber, publish_to=channel))
            page.write(str(["x"] * 20_000).replace("'", '"'))
            await until(lambda: page.sent)
            page.leave()
            async with asyncio.timeout(PATIENCE):
                await relaying
    assert "list" in page.sent[0]["detail"]
    assert len(page.sent[0]["detail"]) < 2_000


async def test_a_second_response_on_one_subscriber_leaves_no_timer() -> None:
    """It is refused, and nothing of it stays: neither its timers nor its connection."""
    async with (
        Broadcaster("memory://") as broadcaster,
        broadcaster.subscribe("c") as subscriber,
    ):
        first = Browser()
        async with opened(EventStreamResponse(subscriber), first):
            await until(lambda: first.begun)
            second = Browser()
            with pytest.raises(RuntimeError, match="reader"):
                await EventStreamResponse(subscriber, ping=0.05)(GET, second.receive, second.send)
            remains = weakref.ref(second)
            del second
            gc.collect()
            assert remains() is None


def name_of(message: str) -> str:
    if message == "broken":
        raise ZeroDivisionError(message)
    return message


@pytest.mark.parametrize("bad", ["eve\nx", "", "broken"])
async def test_a_message_without_a_name_is_skipped_for_all(bad: str) -> None:
    """`event=` is often of the user's own words: nobody may end the streams of others."""
    async with (
        Broadcaster("memory://") as broadcaster,
        broadcaster.subscribe("c") as subscriber,
    ):
        browser = Browser()
        async with opened(EventStreamResponse(subscriber, event=name_of), browser):
            await until(lambda: browser.begun)
            for message in ("ada", bad, "bob"):
                await broadcaster.publish("c", message)
            await until(lambda: "bob" in browser.data)
        assert browser.data == ["ada", "bob"]
        assert subscriber.invalid == 1


async def test_a_handler_refuses_one_message() -> None:
    """An HTTPException is for that message alone; what else it raises closes with 1011."""

    async def refuse(message: str) -> None:
        if message == "broken":
            raise ZeroDivisionError(message)
        raise HTTPException(403, "not your room")

    async with Broadcaster("memory://") as broadcaster, broadcaster.subscribe("c") as subscriber:
        page = Page()
        relaying = asyncio.create_task(relay(page.socket, subscriber, on_message=refuse))
        page.write("hello")
        await until(lambda: page.sent)
        told = {"type": "error", "error": "HTTPException", "detail": "not your room", "status": 403}
        assert page.sent == [told]
        page.write("broken")
        with pytest.raises(ZeroDivisionError):
            await relaying
        assert page.closed is not None
        assert page.closed["code"] == 1011


class Unreachable(Page):
    """Its server closes the socket when no ping is answered, and tells that only to `send`."""

    gone = False

    async def _take(self, message: Any) -> None:
        if self.gone:
            raise RuntimeError("Unexpected ASGI message, after sending 'websocket.close'.")
        await super()._take(message)


@pytest.mark.parametrize("inline", [True, False])
async def test_a_socket_that_the_server_has_closed_by_itself_is_no_crash(inline: bool) -> None:
    """Uvicorn logged a traceback for each client that had vanished."""
    page = Unreachable()
    async with (
        Broadcaster("memory://", inline_sends=inline) as broadcaster,
        broadcaster.subscribe("c") as subscriber,
    ):
        relaying = asyncio.create_task(relay(page.socket, subscriber))
        await broadcaster.publish("c", "1")
        await until(lambda: page.sent == [1])
        page.gone = True
        await broadcaster.publish("c", "2")
        async with asyncio.timeout(PATIENCE):
            await relaying


@pytest.mark.parametrize("name", [None, "said"])
async def test_an_id_stands_before_its_data_in_every_frame(name: str | None) -> None:
    """Simple clients pair a `data:` with the `id:` that they have seen before it."""
    browser = Browser()
    async with (
        Broadcaster("memory://") as broadcaster,
        broadcaster.subscribe("c", after="of another log") as events,
        opened(
            EventStreamResponse(events, event=name, until=lambda text: text == "bye"), browser
        ) as task,
    ):
        await until(lambda: b"gap" in browser.body)
        for text in ("hello", "bye"):
            await broadcaster.publish("c", text)
        async with asyncio.timeout(PATIENCE):
            await task
    _, *blocks, _ = browser.body.decode().rstrip("\n").split("\n\n")
    fields = [re.findall(r"^\w+", block, re.M) for block in blocks]
    message = ["id", *(["event"] if name else []), "data"]
    assert fields == [["id", "event", "data"], message, message, ["id", "event", "data"]]
