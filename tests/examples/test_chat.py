"""The chat, by what its page asks of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx2
import pytest

from servers import Redis
from tests.examples.conftest import Serve
from tests.web.clients import WAIT, get_json, open_events, post
from tests.web.processes import WebServer


@pytest.fixture
def chat(serve: Serve) -> WebServer:
    return serve("chat.app", BROADCASTER_URL="memory://")


@pytest.fixture
def room(chat: WebServer) -> str:
    return f"{chat.url}/rooms/{uuid4().hex}"


async def test_a_message_reaches_the_room_with_the_servers_time(room: str) -> None:
    async with open_events(f"{room}/events") as stream:
        answer = await post(room, {"user": " Ines ", "text": "hello\n", "at": "1999-01-01"})
        said = (await stream.event()).json
    assert answer.status_code == 202
    assert (said["user"], said["text"]) == ("Ines", "hello")
    at = datetime.fromisoformat(said["at"])
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=1)


async def test_who_joins_gets_the_last_50_messages(room: str) -> None:
    for number in range(60):
        await post(room, {"user": "Ines", "text": str(number)})
    async with open_events(f"{room}/events") as stream:
        texts = [(await stream.event()).json["text"] for _ in range(50)]
    assert texts == [str(number) for number in range(10, 60)]


async def test_what_was_said_before_them_is_a_page(room: str) -> None:
    said = [{"user": "Ines", "text": str(number)} for number in range(60)]
    async with httpx2.AsyncClient(timeout=WAIT) as client:
        ids = [(await client.post(room, json=one)).json()["id"] for one in said]
    page = await get_json(f"{room}/history?before={ids[55]}")
    assert [item["message"]["text"] for item in page["items"]] == [*map(str, range(5, 55))]
    older = await get_json(f"{room}/history?before={page['previous']}")
    assert [item["id"] for item in older["items"]] == ids[:5]
    assert older["previous"] is None


async def test_rooms_do_not_hear_each_other(room: str) -> None:
    async with open_events(f"{room}/events") as stream:
        await post(f"{room}-2", {"user": "Ines", "text": "elsewhere"})
        await post(room, {"user": "Ines", "text": "here"})
        assert (await stream.event()).json["text"] == "here"


@pytest.mark.parametrize(
    ("user", "text"),
    [("", "hello"), ("   ", "hello"), ("x" * 41, "hello"), ("Ines", " \n "), ("Ines", "x" * 4_001)],
)
async def test_a_draft_that_does_not_fit_is_refused(room: str, user: str, text: str) -> None:
    answer = await post(room, {"user": user, "text": text})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["msg"].startswith("String should have at ")


async def test_a_bad_room_name_is_refused(chat: WebServer) -> None:
    answer = await post(f"{chat.url}/rooms/a.b", {"user": "Ines", "text": "hello"})
    assert answer.status_code == 422


async def test_every_answer_names_its_worker(chat: WebServer, room: str) -> None:
    async with open_events(f"{room}/events") as stream:
        assert stream.headers["x-worker-pid"] == str(chat.process.pid)
    answer = await post(room, {"user": "Ines", "text": "hello"})
    assert answer.headers["x-worker-pid"] == str(chat.process.pid)


async def test_the_page_needs_nothing_from_elsewhere(chat: WebServer) -> None:
    files = ["icon.svg", "chat.css", "messages.css", "chat.js", "log.js"]
    async with httpx2.AsyncClient(base_url=chat.url, follow_redirects=True, timeout=WAIT) as client:
        page = await client.get("/")
        assert page.url.path == "/rooms/lobby"
        texts = [page.text]
        for name in files:
            answer = await client.get(f"/static/{name}")
            assert answer.status_code == 200, name
            texts.append(answer.text.replace("http://www.w3.org/2000/svg", ""))
        assert (await client.get("/static/app.py")).status_code == 404
    for text in texts:
        assert "//cdn" not in text
        assert "http://" not in text
        assert "https://" not in text
        assert "innerHTML" not in text


async def test_without_a_log_nobody_gets_history(serve: Serve, redis_server: Redis) -> None:
    chat = serve("chat.app", BROADCASTER_URL=redis_server.url)
    room = f"{chat.url}/rooms/{uuid4().hex}"
    await post(room, {"user": "Ines", "text": "too early"})
    async with open_events(f"{room}/events") as stream:
        await post(room, {"user": "Ines", "text": "in time"})
        assert (await stream.event()).json["text"] == "in time"
