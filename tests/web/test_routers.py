"""channel_router and OpenAPI: which routes, their names, dependencies and documents."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, WebSocketException
from fastapi.requests import HTTPConnection
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field
from starlette.websockets import WebSocketDisconnect
from typing_extensions import TypedDict

from fastapi_broadcaster import Broadcaster, ChannelTemplate, EventStreamResponse, channel_router


class Author(BaseModel):
    name: str


class Post(BaseModel):
    kind: Literal["post"] = "post"
    author: Author
    text: str


class Like(BaseModel):
    kind: Literal["like"] = "like"
    count: int = Field(alias="likeCount")


class Point(TypedDict):
    x: int
    y: int


Item = Annotated[Post | Like, Field(discriminator="kind")]
feed = ChannelTemplate("feed.{user}", Item)
texts = ChannelTemplate("texts.{room}", str)
blobs = ChannelTemplate("blobs", bytes)
points = ChannelTemplate("points", list[Point])
anything = ChannelTemplate("anything", Any)
TEMPLATES: list[tuple[ChannelTemplate[Any], str]] = [
    (feed, "/feed/{user}"),
    (texts, "/texts/{room}"),
    (blobs, "/blobs"),
    (points, "/points"),
    (anything, "/anything"),
]


@pytest.fixture
def client() -> Iterator[TestClient]:
    app = FastAPI(lifespan=Broadcaster("memory://").lifespan)
    for template, path in TEMPLATES:
        app.include_router(channel_router(template, path, history=10))
    with TestClient(app) as client:
        yield client


def test_openapi_lists_every_route_once(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operations = [one for item in document["paths"].values() for one in item.values()]
    ids = [one["operationId"] for one in operations]
    assert len(ids) == 3 * len(TEMPLATES)
    assert len(set(ids)) == len(ids)
    assert set(document["paths"]) == {
        path + suffix for _, path in TEMPLATES for suffix in ("", "/events", "/history")
    }
    assert all(one.get("summary") for one in operations)


def test_openapi_lists_the_parameters(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    publish = paths["/feed/{user}"]["post"]
    assert [(one["in"], one["name"]) for one in publish["parameters"]] == [("path", "user")]
    follow = paths["/feed/{user}/events"]["get"]
    found = {(one["in"], one["name"]): one["required"] for one in follow["parameters"]}
    resume = {("header", "Last-Event-ID"): False, ("query", "last_event_id"): False}
    assert found == {("path", "user"): True, **resume}


def test_openapi_describes_the_items_of_a_stream(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for _, path in TEMPLATES:
        content = document["paths"][f"{path}/events"]["get"]["responses"]["200"]["content"]
        assert list(content) == ["text/event-stream"]
        item = content["text/event-stream"]["itemSchema"]
        assert "contentSchema" in item["properties"]["data"]
    content = document["paths"]["/feed/{user}/events"]["get"]["responses"]["200"]["content"]
    schema = content["text/event-stream"]["itemSchema"]["properties"]["data"]["contentSchema"]
    assert set(schema["$defs"]) == {"Author", "Post", "Like"}
    assert "likeCount" in schema["$defs"]["Like"]["properties"]


def test_every_reference_of_openapi_leads_somewhere(client: TestClient) -> None:
    document = client.get("/openapi.json").json()

    def check(node: Any, root: Any) -> None:
        if isinstance(node, dict):
            root = node if "$id" in node else root
            if isinstance(reference := node.get("$ref"), str):
                found = root
                for part in reference.removeprefix("#/").split("/"):
                    found = found[part]
            for value in node.values():
                check(value, root)
        elif isinstance(node, list):
            for value in node:
                check(value, root)

    check(document, document)


@pytest.mark.parametrize(
    ("url", "body", "echo"),
    [
        ("/feed/a", {"kind": "like", "likeCount": 2}, {"kind": "like", "likeCount": 2}),
        ("/texts/a", "hello", "hello"),
        ("/blobs", "AAECgP8=", "AAECgP8="),
        ("/points", [{"x": 1, "y": 2}], [{"x": 1, "y": 2}]),
        ("/anything", {"a": [1, None, "x"]}, {"a": [1, None, "x"]}),
    ],
)
def test_what_goes_in_comes_out(client: TestClient, url: str, body: Any, echo: Any) -> None:
    answer = client.post(url, json=body)
    assert answer.status_code == 202, answer.text
    event_id = answer.json()["id"]
    with client.stream("GET", f"{url}/events") as stream:
        text = ""
        for chunk in stream.iter_text():
            text += chunk
            if "data:" in text:
                break
    lines = dict(line.split(": ", 1) for line in text.strip().split("\n") if ": " in line)
    assert lines["id"] == event_id
    assert json.loads(lines["data"]) == echo


@pytest.mark.parametrize(
    ("flags", "routes"),
    [
        ({}, {"POST /r", "GET /r/events", "GET /r/history", "WS /r/ws"}),
        ({"publish": False}, {"GET /r/events", "GET /r/history", "WS /r/ws"}),
        ({"stream": False}, {"POST /r", "GET /r/history", "WS /r/ws"}),
        ({"websocket": False}, {"POST /r", "GET /r/events", "GET /r/history"}),
        ({"page": False}, {"POST /r", "GET /r/events", "WS /r/ws"}),
        ({"page": True}, {"POST /r", "GET /r/events", "GET /r/history", "WS /r/ws"}),
        ({"publish": False, "stream": False, "websocket": False, "page": False}, set()),
    ],
)
def test_flags(flags: dict[str, Any], routes: set[str]) -> None:
    router = channel_router(texts.bind(room="a"), "/r", **flags)
    found = {
        f"{next(iter(getattr(route, 'methods', None) or ['WS']))} {getattr(route, 'path', '')}"
        for route in router.routes
    }
    assert found == routes


def test_names_carry_the_template_or_are_given() -> None:
    app = FastAPI(lifespan=Broadcaster("memory://").lifespan)
    app.include_router(channel_router(texts, "/t/{room}"))
    app.include_router(channel_router(texts, "/u/{room}", name="other"))
    assert app.url_path_for("texts_room_publish", room="a") == "/t/a"
    assert app.url_path_for("texts_room_events", room="a") == "/t/a/events"
    assert app.url_path_for("texts_room_history", room="a") == "/t/a/history"
    assert app.url_path_for("texts_room_ws", room="a") == "/t/a/ws"
    assert app.url_path_for("other_publish", room="a") == "/u/a"


@pytest.mark.parametrize("taken", ["limit", "before", "after"])
def test_a_parameter_that_pages_take_themselves(taken: str) -> None:
    template = ChannelTemplate(f"texts.{{{taken}}}", str)
    with pytest.raises(ValueError, match="page=False"):
        channel_router(template, f"/t/{{{taken}}}")
    assert channel_router(template, f"/t/{{{taken}}}", page=False).routes


def test_without_publish_a_socket_only_listens() -> None:
    broadcaster = Broadcaster("memory://")
    app = FastAPI(lifespan=broadcaster.lifespan)
    app.include_router(channel_router(texts, "/t/{room}", publish=False, history="all"))
    with TestClient(app) as client, client.websocket_connect("/t/a/ws") as socket:
        socket.send_text("never published")
        assert client.post("/t/a", json="x").status_code == 404
        broadcaster.publish_sync("texts.a", "published")
        assert socket.receive_text() == "published"


def wants(role: str) -> Any:
    async def check(
        connection: HTTPConnection, authorization: Annotated[str, Header()] = ""
    ) -> None:
        if role not in authorization:
            if connection.scope["type"] == "websocket":
                raise WebSocketException(1008)
            raise HTTPException(403)

    return Depends(check)


def test_a_socket_lets_friends_in() -> None:
    texts = ChannelTemplate("texts.{room}", str)
    friends = ["https://friend.example"]
    broadcaster = Broadcaster("memory://")
    app = FastAPI(lifespan=broadcaster.lifespan)
    app.include_router(channel_router(texts, "/texts/{room}", allowed_origins=friends))
    with TestClient(app) as client:
        url = "/texts/1/ws"
        with client.websocket_connect(url, headers={"Origin": friends[0]}) as peer:
            peer.send_text("hello")
            assert peer.receive_text() == "hello"
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect(url, headers={"Origin": "https://evil.example"}),
        ):
            pass
    with pytest.raises(TypeError, match="allowed_origins"):
        channel_router(texts, "/texts/{room}", allowed_origins=friends[0])


def test_dependencies() -> None:
    app = FastAPI(lifespan=Broadcaster("memory://").lifespan)
    writes, reads = [wants("write")], [wants("read")]
    app.include_router(
        channel_router(
            texts, "/t/{room}", publish_dependencies=writes, subscribe_dependencies=reads
        )
    )

    with TestClient(app) as client:
        for roles, status in [("", 403), ("read", 403), ("write", 202)]:
            headers = {"Authorization": roles}
            assert client.post("/t/a", json="x", headers=headers).status_code == status
        for roles, status in [("", 403), ("write", 403), ("read", 200)]:
            headers = {"Authorization": roles}
            with client.stream("GET", "/t/a/events", headers=headers) as answer:
                assert answer.status_code == status
        for roles in ("", "read", "write"):
            with pytest.raises(WebSocketDisconnect) as refused:
                client.websocket_connect("/t/a/ws", headers={"Authorization": roles}).__enter__()
            assert refused.value.code == 1008
        with client.websocket_connect("/t/a/ws", headers={"Authorization": "read write"}) as one:
            one.send_text("hello")
            assert one.receive_text() == "hello"


def test_max_body_size() -> None:
    app = FastAPI(lifespan=Broadcaster("memory://").lifespan)
    app.include_router(channel_router(texts, "/t/{room}", max_body_size=100))
    with TestClient(app) as client:
        assert client.post("/t/a", json="x" * 90).status_code == 202
        assert client.post("/t/a", json="x" * 100).status_code == 413


def test_docs_alone() -> None:
    [content] = EventStreamResponse.docs(Post)[200]["content"].values()
    assert content["itemSchema"]["properties"]["data"]["contentMediaType"] == "application/json"
