"""Each app of the tutorial does what its page says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from docs_src.tutorial import (
    first_channel,
    history,
    own_lifespan,
    typed_channels,
    typed_channels_router,
    websocket_envelope,
    websocket_rooms,
)
from docs_src.tutorial import websocket as inboxes
from docs_src.tutorial.several_workers.test_app import *  # noqa: F403 - the page's own tests
from fastapi_broadcaster import Broadcaster, ChannelTemplate, channel_router

HELLO = {"user": "ada", "text": "Hello"}


@contextmanager
def listening(client: TestClient, url: str, **headers: str) -> Iterator[Iterator[dict[str, Any]]]:
    """Yield an iterator over the fields of each block of the stream."""
    with client.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200
        yield _frames(response.iter_lines())


def _frames(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    frame: dict[str, Any] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            frame[name] = json.loads(value) if name == "data" else value
        else:
            yield frame
            frame = {}


def event(frames: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """The next frame with data."""
    return next(frame for frame in frames if "data" in frame)


def test_first_channel() -> None:
    with TestClient(first_channel.app) as client, listening(client, "/news/events") as frames:
        first = next(frames)
        assert list(first) == ["retry", "id"]
        receipt = client.post("/news", json="Hello")
        assert receipt.status_code == 202
        assert event(frames) == {"id": receipt.json()["id"], "data": "Hello"}


@pytest.mark.parametrize("app", [typed_channels.app, typed_channels_router.app])
def test_typed_channels(app: FastAPI) -> None:
    with TestClient(app) as client, listening(client, "/rooms/lobby/events") as frames:
        assert client.post("/rooms/kitchen", json=HELLO).status_code == 202
        assert client.post("/rooms/lobby", json=HELLO).json()["channel"] == "rooms.lobby"
        assert event(frames)["data"] == HELLO


@pytest.mark.parametrize("app", [typed_channels.app, typed_channels_router.app])
def test_what_does_not_fit_is_refused(app: FastAPI) -> None:
    with TestClient(app) as client:
        assert client.post("/rooms/lobby", json={"user": "ada"}).status_code == 422
        for value in ("lobby.secret", "a:b", "a*", "a?".replace("?", "%3F"), "a[b]", "a%20b"):
            assert client.post(f"/rooms/{value}", json=HELLO).status_code == 422, value
            assert client.get(f"/rooms/{value}/events").status_code == 422, value


def test_history_begins_with_the_newest_fifty() -> None:
    with TestClient(history.app) as client:
        _say(client, "many", 60)
        with listening(client, "/rooms/many/events") as frames:
            texts = [event(frames)["data"]["text"] for _ in range(50)]
            assert texts == [str(number) for number in range(10, 60)]
            client.post("/rooms/many", json=HELLO)
            assert event(frames)["data"] == HELLO


@pytest.mark.parametrize("by_header", [True, False])
def test_resume_goes_on_behind_the_id(by_header: bool) -> None:
    room = f"resume-{by_header}"
    with TestClient(history.app) as client:
        ids = _say(client, room, 5)
        url = f"/rooms/{room}/events" + ("" if by_header else f"?last_event_id={ids[2]}")
        headers = {"Last-Event-ID": ids[2]} if by_header else {}
        with listening(client, url, **headers) as frames:
            assert [event(frames)["data"]["text"] for _ in range(2)] == ["3", "4"]


def test_an_id_of_another_life_is_a_gap() -> None:
    with TestClient(history.app) as client:
        headers = {"Last-Event-ID": "45c67a7e-1-1"}
        with listening(client, "/rooms/gap/events", **headers) as frames:
            gap = event(frames)
            assert gap["event"] == "gap"
            assert gap["data"] == {"channel": "rooms.gap", "reason": "reset", "missed": None}


def test_looking_back() -> None:
    with TestClient(history.app) as client:
        _say(client, "back", 25)
        newest = client.get("/rooms/back/history").json()
        assert [item["message"]["text"] for item in newest["items"]] == [*map(str, range(5, 25))]
        older = client.get("/rooms/back/history", params={"before": newest["previous"]}).json()
        assert [item["message"]["text"] for item in older["items"]] == [*map(str, range(5))]
        assert older["previous"] is None
        foreign = client.get("/rooms/back/history", params={"before": "45c67a7e-9-9"})
        assert foreign.status_code == 410


def test_the_page_of_the_lobby() -> None:
    with TestClient(history.app) as client:
        page = client.get("/")
        assert 'EventSource("/rooms/lobby/events")' in page.text
        assert "innerHTML" not in page.text


def _say(client: TestClient, room: str, count: int) -> list[str]:
    posts = [
        client.post(f"/rooms/{room}", json={"user": "ada", "text": str(number)})
        for number in range(count)
    ]
    return [post.json()["id"] for post in posts]


@pytest.fixture
def inbox() -> Iterator[TestClient]:
    with TestClient(inboxes.app) as client:
        yield client


def test_direct_messages(inbox: TestClient) -> None:
    with (
        inbox.websocket_connect("/inbox?token=token-of-ada") as ada,
        inbox.websocket_connect("/inbox?token=token-of-bob") as bob,
    ):
        ada.send_json({"to": "bob", "text": "Lunch?", "sender": "bob"})
        assert bob.receive_json() == {"sender": "ada", "text": "Lunch?"}
        bob.send_json({"to": "ada", "text": "Yes"})
        assert ada.receive_json() == {"sender": "bob", "text": "Yes"}


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        ({"to": "bob"}, "SerializationError"),
        ({"to": "bob.secret", "text": "x"}, "ChannelNameError"),
    ],
)
def test_what_a_client_does_wrong_is_answered_and_the_socket_stays(
    inbox: TestClient, sent: dict[str, str], error: str
) -> None:
    with inbox.websocket_connect("/inbox?token=token-of-ada") as ada:
        ada.send_json(sent)
        answer = ada.receive_json()
        assert (answer["type"], answer["error"]) == ("error", error)
        ada.send_json({"to": "ada", "text": "Still here"})
        assert ada.receive_json() == {"sender": "ada", "text": "Still here"}


@pytest.mark.parametrize("query", ["", "?token=forged", "?user=bob"])
def test_without_a_valid_token_nothing_is_heard(inbox: TestClient, query: str) -> None:
    with pytest.raises(WebSocketDisconnect) as refused, inbox.websocket_connect(f"/inbox{query}"):
        pass
    assert refused.value.code == 1008


def test_a_page_of_another_origin_is_refused(inbox: TestClient) -> None:
    headers = {"Origin": "https://elsewhere.example"}
    url = "/inbox?token=token-of-ada"
    with (
        pytest.raises(WebSocketDisconnect) as refused,
        inbox.websocket_connect(url, headers=headers),
    ):
        pass
    assert refused.value.code == 1008


def test_a_client_of_the_envelope_comes_back() -> None:
    with TestClient(websocket_envelope.app) as client:
        with client.websocket_connect("/rooms/lobby/ws?after=") as socket:
            [ready] = socket.receive_json()
            assert (set(ready), ready["type"]) == ({"type", "id"}, "ready")
            socket.send_json(HELLO)
            [message] = socket.receive_json()
            assert message["message"] == HELLO
            socket.send_json({"user": "ada"})
            [error] = socket.receive_json()
            assert set(error) == {"type", "error", "detail"}
        [missed] = _say(client, "lobby", 1)
        with client.websocket_connect(f"/rooms/lobby/ws?after={message['id']}") as socket:
            assert socket.receive_json() == [{"type": "ready", "id": message["id"]}]
            assert socket.receive_json()[0]["id"] == missed
        with client.websocket_connect("/rooms/lobby/ws?after=~live") as socket:
            assert socket.receive_json() == [{"type": "ready", "id": None}]
            [gap] = socket.receive_json()
            assert set(gap) == {"type", "channel", "reason", "missed", "id"}


def test_several_rooms_on_one_socket() -> None:
    with (
        TestClient(websocket_rooms.app) as client,
        client.websocket_connect("/chat") as ada,
        client.websocket_connect("/chat") as bob,
    ):
        for number in range(25):
            ada.send_json({"action": "say", "room": "garden", "text": str(number)})
        ada.send_json({"action": "say", "room": "lobby", "text": "to the garden!"})
        assert bob.receive_json() == {"room": "lobby", "text": "to the garden!"}
        bob.send_json({"action": "join", "room": "garden"})
        bob.send_json({"action": "join", "room": "garden"})
        bob.send_json({"action": "say", "room": "garden", "text": "here"})
        wanted = [*(str(number) for number in range(5, 25)), "here"]
        assert [bob.receive_json()["text"] for _ in wanted] == wanted
        bob.send_json({"action": "leave", "room": "garden"})
        bob.send_json({"action": "leave", "room": "attic"})
        bob.send_json({"action": "say", "room": "garden", "text": "not heard"})
        bob.send_json({"action": "say", "room": "lobby", "text": "back"})
        assert bob.receive_json() == {"room": "lobby", "text": "back"}


def test_a_lifespan_of_its_own() -> None:
    with TestClient(own_lifespan.app):
        assert own_lifespan.app.state.broadcaster is own_lifespan.broadcaster


def test_another_broadcaster_for_tests() -> None:
    app = FastAPI(lifespan=Broadcaster("redis://127.0.0.1:1").lifespan)
    app.include_router(channel_router(ChannelTemplate("texts", str), "/texts"))
    app.router.lifespan_context = Broadcaster("memory://").lifespan
    with TestClient(app) as client:
        assert client.post("/texts", json="hello").status_code == 202
