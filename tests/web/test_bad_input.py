"""Bad input as one table: what comes in, the exact answer, and nobody else is harmed by it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from .clients import WAIT, EventStream, get_json, open_events, post, until
from .processes import WebServer

LIMIT = 2_000
BOARD = "board-of-the-table"


@dataclass(frozen=True)
class Row:
    """One request. `wanted` is the status and body of HTTP, the frame or the code of a socket."""

    name: str
    path: str
    sent: str | bytes | None
    wanted: Any
    headers: dict[str, str] = field(default_factory=dict)


def fault(error: str, detail: str) -> dict[str, str]:
    return {"type": "error", "error": error, "detail": detail}


def problem(kind: str, loc: list[str | int], msg: str, given: object, **ctx: Any) -> dict[str, Any]:
    found = {"type": kind, "loc": loc, "msg": msg, "input": given}
    return {"detail": [{**found, "ctx": ctx} if ctx else found]}


def step_out(value: str, char: str) -> dict[str, Any]:
    why = f"board may not hold {char!r}"
    return problem("value_error", ["path", "board"], f"Value error, {why}", value, error={})


NOTE = f"/notes/{BOARD}"
TOO_LARGE = "2,011 bytes are more than the 2,000 that a message may have"
LONG = "x" * 201
NOT_TEXT = "not a valid str: the text is not valid Unicode (UTF-8)"
POSTS = [
    Row(
        "no JSON",
        NOTE,
        "{",
        (
            422,
            problem(
                "json_invalid",
                ["body", 1],
                "JSON decode error",
                {},
                error="Expecting property name enclosed in double quotes",
            ),
        ),
    ),
    Row(
        "no such field",
        NOTE,
        '{"tex": "x"}',
        (422, problem("missing", ["body", "text"], "Field required", {"tex": "x"})),
    ),
    Row(
        "wrong type",
        NOTE,
        '{"text": 1}',
        (422, problem("string_type", ["body", "text"], "Input should be a valid string", 1)),
    ),
    Row("nothing", NOTE, None, (422, problem("missing", ["body"], "Field required", None))),
    Row("too large", f"/texts/{BOARD}", json.dumps({"text": "x" * 2_011}), (413, TOO_LARGE)),
    Row("dot", "/notes/a.b", '{"text": "x"}', (422, step_out("a.b", "."))),
    Row("colon", "/notes/a:b", '{"text": "x"}', (422, step_out("a:b", ":"))),
    Row("star", "/notes/*", '{"text": "x"}', (422, step_out("*", "*"))),
    Row("question mark", "/notes/%3F", '{"text": "x"}', (422, step_out("?", "?"))),
    Row("bracket", "/notes/[a]", '{"text": "x"}', (422, step_out("[a]", "["))),
    Row("space", "/notes/a%20b", '{"text": "x"}', (422, step_out("a b", " "))),
    Row("NUL", "/notes/a%00b", '{"text": "x"}', (422, step_out("a\0b", "\0"))),
    Row("newline", "/notes/a%0Ab", '{"text": "x"}', (422, step_out("a\nb", "\n"))),
    Row(
        "long value",
        f"/notes/{LONG}",
        '{"text": "x"}',
        (
            422,
            problem(
                "value_error",
                ["path", "board"],
                "Value error, board has 1 to 200 characters, this value has 201",
                LONG,
                error={},
            ),
        ),
    ),
    Row(
        "lone surrogate",
        f"/texts/{BOARD}",
        r'{"text": "\ud800"}',
        (422, NOT_TEXT),
    ),
]
NOT_JSON = "not a valid Note: message: Invalid JSON: EOF while parsing an object at line 1 column 1"
MISSING = "not a valid Note: text: Field required"
FRAMES = [
    Row("no JSON", f"{NOTE}/ws", "{", fault("SerializationError", NOT_JSON)),
    Row("no such field", f"{NOTE}/ws", '{"tex": 1}', fault("SerializationError", MISSING)),
    Row("binary that is no JSON", f"{NOTE}/ws", b"{", fault("SerializationError", NOT_JSON)),
    Row(
        "two problems",
        f"{NOTE}/ws",
        '{"text": 1, "done": 2}',
        fault(
            "SerializationError",
            "not a valid Note: text: Input should be a valid string; "
            "done: Input should be a valid boolean, unable to interpret input",
        ),
    ),
    Row(
        "binary that is no text",
        f"/texts/{BOARD}/ws",
        b"\xff",
        fault("SerializationError", NOT_TEXT),
    ),
    Row("too large", f"/texts/{BOARD}/ws", "x" * 2_011, fault("MessageTooLargeError", TOO_LARGE)),
]
REFUSALS = [
    Row("foreign origin", f"{NOTE}/ws", None, 403, {"Origin": "https://evil.example"}),
    Row("bad value", "/notes/a.b/ws", None, 403),
    Row("star", "/notes/*/ws", None, 403),
    Row("long value", f"/notes/{LONG}/ws", None, 403),
]
STREAMS = [
    Row("bad value", "/notes/a.b/events", None, (422, step_out("a.b", "."))),
    Row("no such id", f"{NOTE}/events", None, "reset", {"Last-Event-ID": "x"}),
    Row("id of another log", f"{NOTE}/events", None, "reset", {"Last-Event-ID": "0a1b2c3d-1-1"}),
    Row("id of several channels", f"{NOTE}/events", None, "reset", {"Last-Event-ID": "~m.e30"}),
    Row("no base64", f"{NOTE}/both", None, "reset", {"Last-Event-ID": "~m.!!"}),
    Row("id of one channel", f"{NOTE}/both", None, "reset", {"Last-Event-ID": "0a1b2c3d-1-1"}),
    Row("huge id", f"{NOTE}/events", None, "reset", {"Last-Event-ID": "9" * 5_000}),
]


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    with WebServer("board:app", environment={"MAX_MESSAGE_SIZE": str(LIMIT)}) as server:
        yield server


@pytest.fixture
async def witness(server: WebServer) -> AsyncIterator[None]:
    """A second subscriber, which gets what is published after the row, and nothing of the row."""
    async with open_events(f"{server.url}{NOTE}/events") as events:
        yield
        assert (await post(f"{server.url}{NOTE}", {"text": "after"})).status_code == 202
        assert (await events.event()).json == {"text": "after", "done": False}
        assert "Traceback" not in server.log


def id_of(row: Row) -> str:
    return row.name


@pytest.mark.parametrize("row", POSTS, ids=id_of)
async def test_post(server: WebServer, witness: None, row: Row) -> None:
    async with httpx2.AsyncClient(timeout=WAIT) as client:
        headers = {"Content-Type": "application/json"}
        answer = await client.post(server.url + row.path, content=row.sent, headers=headers)
    status, body = row.wanted
    wanted = {"detail": body} if isinstance(body, str) else body
    assert (answer.status_code, answer.json()) == (status, wanted)


@pytest.mark.parametrize("row", FRAMES, ids=id_of)
async def test_frame(server: WebServer, witness: None, row: Row) -> None:
    async with connect(server.ws_url + row.path) as peer:
        assert row.sent is not None
        await peer.send(row.sent)
        assert json.loads(await asyncio.wait_for(peer.recv(), WAIT)) == row.wanted
        assert await peer.ping()  # the socket stays


@pytest.mark.parametrize("row", REFUSALS, ids=id_of)
async def test_refused_socket(server: WebServer, witness: None, row: Row) -> None:
    origin = row.headers.get("Origin")
    with pytest.raises(InvalidStatus) as refused:
        await connect(server.ws_url + row.path, origin=Origin(origin) if origin else None)
    assert refused.value.response.status_code == row.wanted


@pytest.mark.parametrize("row", STREAMS, ids=id_of)
async def test_stream(server: WebServer, witness: None, row: Row) -> None:
    if isinstance(row.wanted, tuple):
        async with httpx2.AsyncClient(timeout=WAIT) as client:
            answer = await client.get(server.url + row.path, headers=row.headers)
        assert (answer.status_code, answer.json()) == row.wanted
        return
    async with open_events(server.url + row.path, headers=row.headers) as events:
        assert events.status == 200
        await check_gaps(events, row)


async def check_gaps(events: EventStream, row: Row) -> None:
    """One gap for each channel of the stream."""
    channels = [f"notes.{BOARD}", *([f"alerts.{BOARD}"] if "both" in row.path else [])]
    for channel in channels:
        gap = await events.event()
        assert gap.event == "gap"
        assert gap.json == {"channel": channel, "reason": row.wanted, "missed": None}


async def test_a_frame_over_the_limit_of_the_server(witness: None, server: WebServer) -> None:
    async with connect(f"{server.ws_url}/texts/{BOARD}/ws") as peer:
        await peer.send("x" * (16 * 1024 * 1024 + 1))
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(peer.recv(), WAIT)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


async def test_none_of_it_left_a_subscription(server: WebServer) -> None:
    async def nobody_listens() -> bool:
        return await get_json(f"{server.url}/subscribers") == 0

    await until(nobody_listens, "an empty server")
