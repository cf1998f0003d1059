"""Where a template's parameters come from, and that nobody steps out of a template."""

from enum import Enum
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Path, Query
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from fastapi_broadcaster import Broadcaster, Channel, ChannelTemplate, channel, channel_router


class Side(Enum):
    BUY = "buy"
    SELL = "sell"


async def current_user(authorization: Annotated[str | None, Header()] = None) -> str:
    if authorization is None:
        raise HTTPException(401)
    return authorization


rooms = ChannelTemplate("rooms.{room}", str)
jobs = ChannelTemplate("jobs.{job_id}.{step}", str)
inboxes = ChannelTemplate("users.{user_id}.inbox", str)
prices = ChannelTemplate("prices/{symbol}/{side}", str)
letters = ChannelTemplate("letters:{user}", str)
CASES: list[tuple[str, ChannelTemplate[str]]] = [
    ("/rooms/{room}", rooms),
    ("/rooms", rooms),
    ("/jobs/{job_id}", jobs.bind(job_id=UUID, step=int)),
    ("/inbox", inboxes.bind(user_id=Depends(current_user))),
    ("/prices/{side}", prices.bind(symbol="BTC").bind(side=Side)),
    ("/letters/{sender}", letters.bind(user=Path(alias="sender", max_length=5))),
    ("/letters", letters.bind(user=Query(alias="from"))),
    ("/annotated/{user}", letters.bind(user=Annotated[str, Path(pattern="^[a-z]+$")])),
    ("/fixed", prices.bind(symbol="BTC", side=1)),
]


def make_app() -> FastAPI:
    app = FastAPI(lifespan=Broadcaster("memory://").lifespan)

    def add(number: int, path: str, template: ChannelTemplate[str]) -> None:
        @app.get(path, operation_id=f"route{number}")
        async def show(target: Annotated[Channel[str], Depends(channel(template))]) -> str:
            return target.name

    for number, (path, template) in enumerate(CASES):
        add(number, path, template)
    return app


JOB = UUID("3d04e3f0-fe07-4ed7-a680-5f43519b3329")


@pytest.mark.parametrize(
    ("url", "headers", "status", "name"),
    [
        ("/rooms/lobby", {}, 200, "rooms.lobby"),
        ("/rooms/%C3%BC%E6%BC%A2", {}, 200, "rooms.ü漢"),
        ("/rooms?room=lobby", {}, 200, "rooms.lobby"),
        ("/rooms", {}, 422, None),
        (f"/jobs/{JOB}?step=3", {}, 200, f"jobs.{JOB}.3"),
        (f"/jobs/{str(JOB).upper()}?step=3", {}, 200, f"jobs.{JOB}.3"),
        ("/jobs/7?step=3", {}, 422, None),
        (f"/jobs/{JOB}?step=x", {}, 422, None),
        ("/inbox", {"Authorization": "ann"}, 200, "users.ann.inbox"),
        ("/inbox?user_id=bob", {"Authorization": "ann"}, 200, "users.ann.inbox"),
        ("/inbox", {}, 401, None),
        ("/inbox", {"Authorization": "bob.inbox.x"}, 422, None),
        ("/prices/sell", {}, 200, "prices/BTC/sell"),
        ("/prices/hold", {}, 422, None),
        ("/letters/ann", {}, 200, "letters:ann"),
        ("/letters/annabel", {}, 422, None),
        ("/letters?from=bob", {}, 200, "letters:bob"),
        ("/annotated/ann", {}, 200, "letters:ann"),
        ("/annotated/ANN", {}, 422, None),
        ("/fixed", {}, 200, "prices/BTC/1"),
    ],
)
def test_sources(url: str, headers: dict[str, str], status: int, name: str | None) -> None:
    with TestClient(make_app()) as client:
        answer = client.get(url, headers=headers)
        assert answer.status_code == status, answer.text
        assert name is None or answer.json() == name


def test_all_of_it_is_in_openapi() -> None:
    with TestClient(make_app()) as client:
        paths = client.get("/openapi.json").json()["paths"]
    found = {
        path: sorted((one["in"], one["name"]) for one in item["get"].get("parameters", []))
        for path, item in paths.items()
    }
    assert found == {
        "/rooms/{room}": [("path", "room")],
        "/rooms": [("query", "room")],
        "/jobs/{job_id}": [("path", "job_id"), ("query", "step")],
        "/inbox": [("header", "authorization")],
        "/prices/{side}": [("path", "side")],
        "/letters/{sender}": [("path", "sender")],
        "/letters": [("query", "from")],
        "/annotated/{user}": [("path", "user")],
        "/fixed": [],
    }
    [job] = [one for one in paths["/jobs/{job_id}"]["get"]["parameters"] if one["in"] == "path"]
    assert job["schema"]["format"] == "uuid"


STEPPING_OUT = [
    "a.b",
    "a:b",
    "*",
    "?",
    "[a]",
    "a b",
    " ",
    "\t",
    "\x00",
    "\x7f",
    "\u2028",
    "x" * 201,
]


@pytest.mark.parametrize("value", STEPPING_OUT, ids=ascii)
def test_a_value_that_steps_out_is_422_and_1008(value: str) -> None:
    app = FastAPI(lifespan=Broadcaster("memory://").lifespan)
    app.include_router(channel_router(rooms, "/rooms/in"))
    with TestClient(app) as client:
        for answer in (
            client.post("/rooms/in", params={"room": value}, json="hello"),
            client.get("/rooms/in/events", params={"room": value}),
        ):
            assert answer.status_code == 422
            [problem] = answer.json()["detail"]
            assert problem["loc"] == ["query", "room"]
        query = urlencode({"room": value})
        with pytest.raises(WebSocketDisconnect) as refused:
            client.websocket_connect(f"/rooms/in/ws?{query}").__enter__()
        assert refused.value.code == 1008


@pytest.mark.parametrize("value", ["", "a/b", *STEPPING_OUT], ids=ascii)
def test_the_same_outside_routes(value: str) -> None:
    with pytest.raises(ValueError, match="room"):
        Broadcaster("memory://").channel(rooms, room=value)


@pytest.mark.parametrize("value", [None, 1.5, True, b"x", [], {}, object(), lambda: "x"])
def test_bind_takes_nothing_else(value: Any) -> None:
    with pytest.raises(TypeError, match="room="):
        rooms.bind(room=value)


def test_bind_takes_no_unknown_parameter_and_no_bad_constant() -> None:
    with pytest.raises(TypeError, match="no parameter 'rooom'"):
        rooms.bind(rooom="lobby")
    with pytest.raises(ValueError, match="room"):
        rooms.bind(room="a.b")


def test_bind_returns_a_copy() -> None:
    bound = rooms.bind(room="lobby")
    assert rooms.bindings == {}
    assert Broadcaster("memory://").channel(bound).name == "rooms.lobby"
    with pytest.raises(TypeError):
        Broadcaster("memory://").channel(rooms)
