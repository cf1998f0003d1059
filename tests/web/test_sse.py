"""Event streams over a real server: what leaves, in which form, and how a stream ends."""

from __future__ import annotations

import base64

import pytest

from .clients import Frame, get_json, open_events, post, until
from .processes import WebServer


async def test_headers_and_first_frame(board: WebServer, name: str) -> None:
    async with open_events(f"{board.url}/notes/{name}/events") as events:
        assert events.status == 200
        assert events.headers["content-type"].partition(";")[0] == "text/event-stream"
        assert "no-cache" in events.headers["cache-control"]
        assert events.headers["x-accel-buffering"] == "no"
        first = await events.frame()
        assert first.retry is not None
        assert 1_000 <= first.retry <= 2_000
        assert first.id  # so that a client that has seen nothing can resume, too
        assert first.data is None


async def test_events_are_json_with_the_id_of_the_receipt(board: WebServer, name: str) -> None:
    async with open_events(f"{board.url}/notes/{name}/events") as events:
        receipt = (await post(f"{board.url}/notes/{name}", {"text": "hällo"})).json()
        event = await events.event()
        assert event.json == {"text": "hällo", "done": False}
        assert event.id == receipt["id"]
        assert receipt["channel"] == f"notes.{name}"
        assert event.event is None


async def test_order(board: WebServer, name: str) -> None:
    async with open_events(f"{board.url}/notes/{name}/events") as events:
        for number in range(50):
            await post(f"{board.url}/notes/{name}", {"text": str(number)})
        got = [(await events.event()).json["text"] for _ in range(50)]
        assert got == [str(number) for number in range(50)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain",
        "a\rb",
        "a\nb",
        "a\r\nb",
        "\n\n",
        "nul \0 end",
        "ünï 漢字 \U0001f600",
        "\u2028\x85",
    ],
    ids=ascii,
)
async def test_any_text_round_trips(board: WebServer, name: str, text: str) -> None:
    async with open_events(f"{board.url}/texts/{name}/events") as events:
        assert (await post(f"{board.url}/texts/{name}", {"text": text})).status_code == 202
        assert (await events.event()).json == text


async def test_bytes_travel_as_base64(board: WebServer, name: str) -> None:
    data = bytes(range(256))
    async with open_events(f"{board.url}/blobs/{name}/events") as events:
        await post(f"{board.url}/blobs/{name}", {"text": data.hex()})
        assert base64.b64decode((await events.event()).json) == data


async def test_fields_that_the_type_does_not_know_never_reach_a_browser(
    board: WebServer, name: str
) -> None:
    async with open_events(f"{board.url}/notes/{name}/events") as events:
        await post(f"{board.url}/raw/{name}", {"text": "hello", "password": "hunter2"})
        assert (await events.event()).json == {"text": "hello", "done": False}


async def test_data_that_does_not_fit_is_skipped(board: WebServer, name: str) -> None:
    async with open_events(f"{board.url}/notes/{name}/events") as events:
        await post(f"{board.url}/raw/{name}", {"no text": 1})
        await post(f"{board.url}/notes/{name}", {"text": "next"})
        assert (await events.event()).json["text"] == "next"


async def test_event_names(board: WebServer, name: str) -> None:
    async with (
        open_events(f"{board.url}/notes/{name}/named") as with_name,
        open_events(f"{board.url}/notes/{name}/events") as without,
    ):
        await post(f"{board.url}/notes/{name}", {"text": "hello"})
        assert (await with_name.event()).event == "note"
        assert (await without.event()).event is None


async def test_ping_while_nothing_comes(board: WebServer, name: str) -> None:
    async with open_events(f"{board.url}/notes/{name}/pinged") as events:
        await events.frame()
        assert await events.frame() == Frame(comment="ping")
        assert await events.frame() == Frame(comment="ping")
        await post(f"{board.url}/notes/{name}", {"text": "hello"})
        assert (await events.event()).json["text"] == "hello"


async def test_max_age_ends_the_stream_cleanly_and_it_can_be_resumed(
    board: WebServer, name: str
) -> None:
    async with open_events(f"{board.url}/notes/{name}/short") as events:
        first, last = await events.rest()
        assert first.id
        assert last.retry is not None
        assert last.data is None
    await post(f"{board.url}/notes/{name}", {"text": "between"})
    resume = {"Last-Event-ID": first.id}
    async with open_events(f"{board.url}/notes/{name}/events", headers=resume) as events:
        assert (await events.event()).json["text"] == "between"


async def test_until_ends_the_stream_and_stops_the_browser(board: WebServer, name: str) -> None:
    url = f"{board.url}/notes/{name}/until-done"
    async with open_events(url) as events:
        await events.frame()
        await post(f"{board.url}/notes/{name}", {"text": "working"})
        await post(f"{board.url}/notes/{name}", {"text": "ready", "done": True})
        working, ready, end, *after = await events.rest()
    assert (working.json["text"], ready.json["text"]) == ("working", "ready")
    assert end == Frame(event="end", id="~end", data="")
    assert all(frame.data is None and frame.id is None for frame in after)
    async with open_events(url, headers={"Last-Event-ID": "~end"}) as events:
        assert events.status == 204
    for other in ("~live", "~endless", "x"):
        async with open_events(url, headers={"Last-Event-ID": other}) as events:
            assert events.status == 200


async def test_unentered_subscription(board: WebServer, name: str) -> None:
    await post(f"{board.url}/notes/{name}", {"text": "before"})
    async with open_events(f"{board.url}/notes/{name}/lazy") as events:
        before = await events.event()
        assert before.json["text"] == "before"
        await post(f"{board.url}/notes/{name}", {"text": "live"})
        assert (await events.event()).json["text"] == "live"
    resume = {"Last-Event-ID": str(before.id)}
    async with open_events(f"{board.url}/notes/{name}/lazy", headers=resume) as events:
        assert (await events.event()).json["text"] == "live"


async def test_closed_subscriber_is_refused(board: WebServer, name: str) -> None:
    async with open_events(f"{board.url}/notes/{name}/closed") as events:
        assert "closed" in events.headers["x-refused"]


async def test_filter(board: WebServer, name: str) -> None:
    async with open_events(f"{board.url}/notes/{name}/filtered") as events:
        for text in ("a", "secret", "b"):
            await post(f"{board.url}/notes/{name}", {"text": text})
        assert [(await events.event()).json["text"] for _ in "ab"] == ["a", "b"]


async def test_two_templates_in_one_stream(board: WebServer, name: str) -> None:
    url = f"{board.url}/notes/{name}/both"
    async with open_events(url) as events:
        await post(f"{board.url}/notes/{name}", {"text": "one"})
        await post(f"{board.url}/alerts/{name}", {"level": 2})
        await post(f"{board.url}/notes/{name}", {"text": "three"})
        first = await events.event()
        got = [first.json, (await events.event()).json, (await events.event()).json]
    assert got == [{"text": "one", "done": False}, {"level": 2}, {"text": "three", "done": False}]
    async with open_events(url, headers={"Last-Event-ID": str(first.id)}) as events:
        assert [(await events.event()).json for _ in "23"] == got[1:]


async def test_fastapis_own_form(board: WebServer, name: str) -> None:
    async with open_events(f"{board.url}/notes/{name}/fastapi") as events:
        await post(f"{board.url}/notes/{name}", {"text": "hello"})
        assert (await events.event()).json == {"text": "hello", "done": False}


@pytest.mark.parametrize("form", ["events", "lazy", "fastapi", "both"])
@pytest.mark.parametrize("leave", ["close", "abort"])
async def test_a_client_that_leaves_is_noticed(
    board: WebServer, name: str, form: str, leave: str
) -> None:
    async def nobody_listens() -> bool:
        return await get_json(f"{board.url}/subscribers") == 0

    await until(nobody_listens, "an empty server")
    async with open_events(f"{board.url}/notes/{name}/{form}") as events:
        assert await get_json(f"{board.url}/subscribers") == 1
        getattr(events, leave)()
        await until(nobody_listens, "the end of the subscription")
