"""Coming back to a WebSocket with `?after=`, and what streams begin with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect

from servers import Redis

from .clients import WAIT, open_events, post
from .processes import WebServer


class Enveloped:
    """A client of an envelope, which reads one item after the other."""

    def __init__(self, peer: ClientConnection) -> None:
        self.peer = peer
        self.last: str | None = None
        self._items: list[dict[str, Any]] = []

    async def item(self) -> dict[str, Any]:
        """The next item of whatever frame; keeps the last id as a client should."""
        while not self._items:
            async with asyncio.timeout(WAIT):
                self._items = json.loads(await self.peer.recv())
        item = self._items.pop(0)
        self.last = item.get("id") or self.last
        return item

    async def texts(self, count: int) -> list[str]:
        """The next messages, and nothing but messages."""
        items = [await self.item() for _ in range(count)]
        assert {item["type"] for item in items} <= {"message"}, items
        return [item["message"]["text"] for item in items]


@asynccontextmanager
async def enter(server: WebServer, room: str, after: str | None = None) -> AsyncIterator[Enveloped]:
    """Open the room's WebSocket and read the `ready` that comes first."""
    query = str(httpx2.QueryParams({"after": after} if after is not None else {}))
    async with connect(f"{server.ws_url}/rooms/{room}/ws?{query}") as peer:
        client = Enveloped(peer)
        first = await client.item()
        assert set(first) == {"type", "id"}
        assert first["type"] == "ready"
        yield client


async def say(server: WebServer, room: str, *texts: str) -> list[str]:
    answers = [await post(f"{server.url}/rooms/{room}", {"text": text}) for text in texts]
    assert [answer.status_code for answer in answers] == [202] * len(texts)
    return [answer.json()["id"] for answer in answers]


async def test_resume_behind_an_event(rooms: WebServer, name: str) -> None:
    a, b, _, _ = await say(rooms, name, "a", "b", "c", "d")
    async with enter(rooms, name, a) as client:
        assert client.last == a  # nothing of the rest was handed on yet
        assert await client.texts(3) == ["b", "c", "d"]
    async with enter(rooms, name, b) as client:
        assert await client.texts(2) == ["c", "d"]


async def test_resume_before_the_first_event(rooms: WebServer, name: str) -> None:
    async with enter(rooms, name) as client:
        start = client.last
    assert start is not None
    await say(rooms, name, "first", "second")
    async with enter(rooms, name, start) as client:
        assert await client.texts(2) == ["first", "second"]


async def test_every_message_once_over_many_reconnects(rooms: WebServer, name: str) -> None:
    async def speak() -> None:
        async with connect(f"{rooms.ws_url}/rooms/{name}/ws") as peer:
            for number in range(100):
                await peer.send(json.dumps({"text": str(number)}))
                await peer.recv()

    got, last = list[str](), None
    async with enter(rooms, name) as client:
        last = client.last
    speaker = asyncio.create_task(speak())
    while len(got) < 100:
        async with enter(rooms, name, last) as client:
            got += await client.texts(min(7, 100 - len(got)))
            last = client.last
    await speaker
    assert got == [str(number) for number in range(100)]


@pytest.mark.parametrize("foreign", ["x", "1-2", "~m.e30", "ffffffff-1-1", "~live", "é"])
async def test_a_foreign_id_is_a_gap_that_leads_on(
    rooms: WebServer, name: str, foreign: str
) -> None:
    await say(rooms, name, "before")
    async with enter(rooms, name, foreign) as client:
        gap = await client.item()
        told = {"type": "gap", "channel": f"rooms.{name}", "reason": "reset", "missed": None}
        assert gap == {**told, "id": client.last}
        await say(rooms, name, "live")
        assert await client.texts(1) == ["live"]
    await say(rooms, name, "later")
    async with enter(rooms, name, gap["id"]) as client:
        assert await client.texts(2) == ["live", "later"]  # and no second gap


async def test_an_empty_id_is_none(rooms: WebServer, name: str) -> None:
    await say(rooms, name, "before")
    async with enter(rooms, name, "") as client:
        await say(rooms, name, "live")
        assert await client.texts(1) == ["live"]
    async with open_events(f"{rooms.url}/two/{name}/events?last_event_id=") as events:
        await post(f"{rooms.url}/texts/{name}", "live")
        event = await events.event()
        assert (event.event, event.json) == (None, "live")


async def test_what_was_trimmed_away_is_a_gap(rooms: WebServer, name: str) -> None:
    [first] = await say(rooms, name, "first")
    await post(f"{rooms.url}/say/{name}?count=130", None)  # the log keeps 120
    async with enter(rooms, name, first) as client:
        gap = await client.item()
        assert (gap["type"], gap["reason"], gap["missed"]) == ("gap", "expired", 10)
        assert await client.texts(120) == [str(number) for number in range(10, 130)]


async def test_without_an_envelope_it_resumes_and_tells_no_gap(rooms: WebServer, name: str) -> None:
    answers = [await post(f"{rooms.url}/texts/{name}", text) for text in "abc"]
    async with connect(f"{rooms.ws_url}/texts/{name}/ws?after={answers[0].json()['id']}") as peer:
        async with asyncio.timeout(WAIT):
            assert [await peer.recv() for _ in "bc"] == ["b", "c"]
    async with connect(f"{rooms.ws_url}/texts/{name}/ws?after=x") as peer:
        await peer.send("d")
        async with asyncio.timeout(WAIT):
            assert await peer.recv() == "d"


async def test_after_is_of_sockets_alone(rooms: WebServer, name: str) -> None:
    [a, _] = await say(rooms, name, "a", "b")
    async with open_events(f"{rooms.url}/rooms/{name}/events?after={a}") as events:
        await say(rooms, name, "c")
        assert (await events.event()).json["text"] == "c"


async def test_without_a_log(redis_server: Redis, name: str) -> None:
    environment = {"BROADCASTER_URL": redis_server.url}
    with WebServer("rooms:app", environment=environment) as server:
        async with enter(server, name) as client:
            assert client.last == "~live"
            await say(server, name, "hello")
            assert (await client.item())["id"] is None
            assert client.last == "~live"
        for after, reason in [("~live", "reconnected"), ("0a1b-1-1", "reset")]:
            async with enter(server, name, after) as client:
                gap = await client.item()
                told = {"channel": f"rooms.{name}", "reason": reason, "missed": None}
                assert gap == {"type": "gap", **told, "id": None}
                await say(server, name, "live")
                assert await client.texts(1) == ["live"]


@pytest.fixture(scope="module")
def workers() -> Iterator[list[WebServer]]:
    """Two processes on one log."""
    with Redis.private() as redis:
        environment = {"BROADCASTER_URL": redis.url.replace("redis://", "redis-stream://")}
        with (
            WebServer("rooms:app", environment=environment) as one,
            WebServer("rooms:app", environment=environment) as two,
        ):
            yield [one, two]


async def test_an_id_of_one_worker_resumes_on_another(workers: list[WebServer], name: str) -> None:
    here, there = workers
    async with enter(here, name) as client:
        await say(there, name, "a")
        assert await client.texts(1) == ["a"]
    await say(here, name, "b", "c")
    async with enter(there, name, client.last) as client:
        assert await client.texts(2) == ["b", "c"]


# -- what streams begin with --------------------------------------------------------------------

BEGINNINGS = [
    ("two", ["2", "3"]),
    ("all", ["0", "1", "2", "3"]),
    ("hour", ["0", "1", "2", "3"]),
    ("now", []),
    ("latest", ["3"]),
]


@pytest.mark.parametrize("form", ["", "own-"])
@pytest.mark.parametrize(("route", "begins"), BEGINNINGS)
async def test_an_event_stream_begins(
    rooms: WebServer, name: str, form: str, route: str, begins: list[str]
) -> None:
    ids = (await post(f"{rooms.url}/fill/{name}?count=4", None)).json()
    url = f"{rooms.url}/{form}{route}/{name}/events"
    async with open_events(url) as events:
        first = await events.frame()
        assert (first.id is None) == bool(begins)  # what is replayed brings its own ids
        await post(f"{rooms.url}/texts/{name}", "live")
        got = [(await events.event()).json for _ in [*begins, "live"]]
        assert got == [*begins, "live"]
    async with open_events(url, headers={"Last-Event-ID": ids[0]}) as events:
        assert [(await events.event()).json for _ in range(4)] == ["1", "2", "3", "live"]


async def test_an_event_stream_begins_behind_an_id(rooms: WebServer, name: str) -> None:
    ids = (await post(f"{rooms.url}/fill/{name}?count=4", None)).json()
    url = f"{rooms.url}/own-behind/{name}/events?behind="
    async with open_events(url + ids[1]) as events:
        assert [(await events.event()).json for _ in range(2)] == ["2", "3"]
    async with open_events(url + ids[1], headers={"Last-Event-ID": ids[2]}) as events:
        assert (await events.event()).json == "3"
    async with open_events(url + "x") as events:
        assert (await events.event()).json["reason"] == "reset"


@pytest.mark.parametrize(("route", "begins"), BEGINNINGS)
async def test_a_socket_begins(rooms: WebServer, name: str, route: str, begins: list[str]) -> None:
    ids = (await post(f"{rooms.url}/fill/{name}?count=4", None)).json()
    url = f"{rooms.ws_url}/{route}/{name}/ws"
    for query, wanted in [("", begins), (f"?after={ids[0]}", ["1", "2", "3"])]:
        async with connect(url + query) as peer:
            client = Enveloped(peer)
            ready = await client.item()
            assert ready["type"] == "ready"
            assert (ready["id"] is None) == (bool(begins) and not query)
            assert [(await client.item())["message"] for _ in wanted] == wanted
