"""WebSockets over a real server: both directions, errors, and who may connect."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from .clients import WAIT, get_json, open_events, post, until
from .processes import WebServer


async def receive(peer: ClientConnection) -> str | bytes:
    async with asyncio.timeout(WAIT):
        return await peer.recv()


async def receive_json(peer: ClientConnection) -> Any:
    return json.loads(await receive(peer))


async def test_both_directions(board: WebServer, name: str) -> None:
    async with (
        connect(f"{board.ws_url}/notes/{name}/ws") as one,
        connect(f"{board.ws_url}/notes/{name}/ws") as two,
        open_events(f"{board.url}/notes/{name}/events") as events,
    ):
        await one.send('{"text": "from one"}')
        for peer in (one, two):
            assert await receive_json(peer) == {"text": "from one", "done": False}
        await post(f"{board.url}/notes/{name}", {"text": "by POST"})
        for peer in (one, two):
            assert await receive_json(peer) == {"text": "by POST", "done": False}
        assert [(await events.event()).json["text"] for _ in "12"] == ["from one", "by POST"]


async def test_order_in_both_directions(board: WebServer, name: str) -> None:
    async with connect(f"{board.ws_url}/texts/{name}/ws") as peer:
        for number in range(300):
            await peer.send(str(number))
        assert [await receive(peer) for _ in range(300)] == [str(n) for n in range(300)]


async def test_plain_text_is_a_bare_frame(board: WebServer, name: str) -> None:
    async with connect(f"{board.ws_url}/texts/{name}/ws") as peer:
        for text in ("", "plain", '"quoted"', "nul \0 \r\n", "漢字 \U0001f600"):
            await peer.send(text)
            assert await receive(peer) == text


async def test_bytes_are_binary_frames(board: WebServer, name: str) -> None:
    async with connect(f"{board.ws_url}/blobs/{name}/ws") as peer:
        await peer.send(bytes(range(256)))
        assert await receive(peer) == bytes(range(256))


async def test_without_publish_to_what_the_client_says_is_ignored(
    board: WebServer, name: str
) -> None:
    async with connect(f"{board.ws_url}/notes/{name}/listen") as peer:
        await peer.send('{"text": "ignored"}')
        await post(f"{board.url}/notes/{name}", {"text": "heard"})
        assert (await receive_json(peer))["text"] == "heard"


async def test_on_message_gets_what_its_annotation_says(board: WebServer, name: str) -> None:
    async with connect(f"{board.ws_url}/notes/{name}/signed") as peer:
        await peer.send('{"text": 1}')
        error = await receive_json(peer)
        assert (error["type"], error["error"]) == ("error", "SerializationError")
        await peer.send('{"text": "hello", "done": true}')
        assert await receive_json(peer) == {"text": "hello (signed)", "done": True}


async def test_envelopes(board: WebServer, name: str) -> None:
    async with connect(f"{board.ws_url}/notes/{name}/envelope") as peer:
        [ready] = await receive_json(peer)
        assert (set(ready), ready["type"]) == ({"type", "id"}, "ready")
        await peer.send('{"text": "hello"}')
        [item] = await receive_json(peer)
        assert set(item) == {"type", "channel", "id", "message"}
        assert (item["type"], item["channel"]) == ("message", f"notes.{name}")
        assert item["message"] == {"text": "hello", "done": False}
        await peer.send("{")
        [error] = await receive_json(peer)
        assert set(error) == {"type", "error", "detail"}
        assert (error["type"], error["error"]) == ("error", "SerializationError")
        ids = [(await post(f"{board.url}/notes/{name}", {"text": t})).json()["id"] for t in "abc"]
    async with connect(f"{board.ws_url}/notes/{name}/envelope?last_event_id={item['id']}") as peer:
        assert await receive_json(peer) == [{"type": "ready", "id": item["id"]}]
        got: list[Any] = []
        while len(got) < 3:
            got += await receive_json(peer)
        assert [item["id"] for item in got] == ids


async def test_a_gap_stands_in_the_envelope(board: WebServer, name: str) -> None:
    async with connect(f"{board.ws_url}/notes/{name}/envelope?last_event_id=x") as peer:
        assert await receive_json(peer) == [{"type": "ready", "id": None}]
        [gap] = await receive_json(peer)
        assert isinstance(gap.pop("id"), str)  # which leads on
        assert gap == {
            "type": "gap",
            "channel": f"notes.{name}",
            "reason": "reset",
            "missed": None,
        }
    async with connect(f"{board.ws_url}/notes/{name}/ws?last_event_id=x") as peer:
        await peer.send('{"text": "bare frames have no gaps"}')
        assert (await receive_json(peer))["text"] == "bare frames have no gaps"


@pytest.mark.parametrize(
    ("route", "origin", "headers"),
    [
        ("ws", None, {}),
        ("ws", "http://HOST", {}),
        ("ws", "https://HOST", {}),
        ("ws", "https://public.example", {"X-Forwarded-Host": "public.example"}),
        ("allowed", "https://friend.example", {}),
        ("allowed", "http://HOST", {}),
    ],
)
async def test_origins_that_are_let_in(
    board: WebServer, name: str, route: str, origin: str | None, headers: dict[str, str]
) -> None:
    chosen = Origin(origin.replace("HOST", board.host)) if origin is not None else None
    url = f"{board.ws_url}/notes/{name}/{route}"
    async with connect(url, origin=chosen, additional_headers=headers) as peer:
        await post(f"{board.url}/notes/{name}", {"text": "hello"})
        assert (await receive_json(peer))["text"] == "hello"


@pytest.mark.parametrize(
    ("route", "origin", "headers"),
    [
        ("ws", "https://evil.example", {}),
        ("ws", "null", {}),
        ("ws", "", {}),
        ("ws", "http://HOST.evil.example", {}),
        ("ws", "http://evil.example/HOST", {}),
        ("ws", "https://friend.example", {}),
        ("ws", "https://evil.example", {"X-Forwarded-Host": "public.example"}),
        ("allowed", "http://friend.example", {}),
        ("allowed", "https://friend.example.evil", {}),
    ],
)
async def test_foreign_origins_are_refused_before_accept(
    board: WebServer, name: str, route: str, origin: str, headers: dict[str, str]
) -> None:
    chosen = Origin(origin.replace("HOST", board.host))
    before = board.log.count("allowed_origins=")
    with pytest.raises(InvalidStatus) as refusal:
        await connect(
            f"{board.ws_url}/notes/{name}/{route}", origin=chosen, additional_headers=headers
        )
    assert refusal.value.response.status_code == 403

    async def logged() -> bool:
        return board.log.count("allowed_origins=") == before + 1

    await until(logged, "a line that names allowed_origins=")
    assert repr(str(chosen)) in board.log


@pytest.mark.parametrize("leave", ["close", "abort"])
async def test_a_client_that_leaves_is_noticed(board: WebServer, name: str, leave: str) -> None:
    async def nobody_listens() -> bool:
        return await get_json(f"{board.url}/subscribers") == 0

    await until(nobody_listens, "an empty server")
    for route in ("ws", "listen", "envelope", "signed"):
        peer = await connect(f"{board.ws_url}/notes/{name}/{route}")
        assert await get_json(f"{board.url}/subscribers") == 1
        if leave == "close":
            await peer.close()
        else:
            peer.transport.abort()
        await until(nobody_listens, "the end of the subscription")


async def test_a_frame_over_the_servers_limit_closes_with_1009(name: str) -> None:
    with WebServer("board:app", arguments=["--ws-max-size", "1000"]) as server:
        async with connect(f"{server.ws_url}/texts/{name}/ws") as peer:
            await peer.send("x" * 1_001)
            with pytest.raises(ConnectionClosed) as closed:
                await receive(peer)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


async def test_an_error_of_the_users_handler_is_not_silent(board: WebServer, name: str) -> None:
    for text in ("ValueError", "OSError", "TimeoutError"):
        before = board.log.count("Traceback")
        async with connect(f"{board.ws_url}/notes/{name}/failing") as peer:
            await peer.send(json.dumps({"text": text}))
            with pytest.raises(ConnectionClosed):
                await receive(peer)

        async def logged(wanted: str = f"{text}: in on_message", least: int = before) -> bool:
            return board.log.count("Traceback") > least and wanted in board.log

        await until(logged, f"the {text} in the log")
