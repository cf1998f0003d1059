"""Clients that stop reading: those who go on later, those who never do, and their neighbours."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from .clients import WAIT, EventStream, get_json, open_events, post, until
from .processes import WebServer

COUNT, SIZE = 4_000, 4_096  # 16 MB: more than all socket buffers on the way
SMALL = 4_096


@asynccontextmanager
async def open_slow_socket(server: WebServer, path: str) -> AsyncIterator[ClientConnection]:
    """A WebSocket client that buffers next to nothing until it is read."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    peer.connect(("127.0.0.1", server.port))
    peer.setblocking(False)
    connection = await connect(
        server.ws_url + path, sock=peer, max_queue=1, ping_interval=None, compression=None
    )
    try:
        yield connection
    finally:
        connection.transport.abort()


async def both_are_here(board: WebServer) -> bool:
    """And nobody any more of an earlier test."""
    return await get_json(f"{board.url}/subscribers") == 2


async def publish_many(server: WebServer, name: str) -> None:
    answer = await post(f"{server.url}/notes/{name}/many?count={COUNT}&size={SIZE}", None)
    assert answer.status_code == 202


async def numbers(events: EventStream) -> list[int]:
    """The numbers of all notes, in order of arrival; a gap would fail in here."""
    return [int((await events.event()).json["text"].split()[0]) for _ in range(COUNT)]


async def socket_numbers(peer: ClientConnection) -> list[int]:
    async with asyncio.timeout(3 * WAIT):
        return [int(json.loads(await peer.recv())["text"].split()[0]) for _ in range(COUNT)]


async def test_an_event_stream_that_goes_on_later_gets_everything_in_order(
    board: WebServer, name: str
) -> None:
    url = f"{board.url}/notes/{name}/events"
    async with open_events(url, receive_buffer=SMALL) as slow, open_events(url) as fast:
        reading = asyncio.create_task(numbers(fast))
        await publish_many(board, name)
        assert await reading == list(range(COUNT))
        await until(lambda: both_are_here(board), "two subscriptions")
        assert await numbers(slow) == list(range(COUNT))
        await post(f"{board.url}/notes/{name}", {"text": "live again"})
        assert (await slow.event()).json["text"] == "live again"


async def test_a_socket_that_goes_on_later_gets_everything_in_order(
    board: WebServer, name: str
) -> None:
    path = f"/notes/{name}/listen"
    async with open_slow_socket(board, path) as slow, connect(board.ws_url + path) as fast:
        reading = asyncio.create_task(socket_numbers(fast))
        await publish_many(board, name)
        assert await reading == list(range(COUNT))
        await until(lambda: both_are_here(board), "two subscriptions")
        assert await socket_numbers(slow) == list(range(COUNT))
        await post(f"{board.url}/notes/{name}", {"text": "live again"})
        assert json.loads(await slow.recv())["text"] == "live again"


async def test_a_stalled_event_stream_is_closed_and_others_are_not_disturbed(
    board: WebServer, name: str
) -> None:
    async def one_is_left() -> bool:
        return await get_json(f"{board.url}/subscribers") == 1

    url = f"{board.url}/notes/{name}"
    async with (
        open_events(f"{url}/impatient", receive_buffer=SMALL) as stalled,
        open_events(f"{url}/events") as other,
    ):
        reading = asyncio.create_task(numbers(other))
        await publish_many(board, name)
        assert await reading == list(range(COUNT))
        await until(one_is_left, "the end of the stalled client")
        assert "took nothing for 0." in board.log
        await post(url, {"text": "still here"})
        assert (await other.event()).json["text"] == "still here"
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError, AssertionError)):
            await numbers(stalled)  # it is cut off, not ended as if it were complete


async def test_a_stalled_socket_is_closed_and_others_are_not_disturbed(
    board: WebServer, name: str
) -> None:
    async def one_is_left() -> bool:
        return await get_json(f"{board.url}/subscribers") == 1

    path = f"/notes/{name}"
    async with (
        open_slow_socket(board, f"{path}/impatient-ws") as stalled,
        connect(f"{board.ws_url}{path}/listen") as other,
    ):
        reading = asyncio.create_task(socket_numbers(other))
        await publish_many(board, name)
        assert await reading == list(range(COUNT))
        await until(one_is_left, "the end of the stalled client")
        await post(f"{board.url}/notes/{name}", {"text": "still here"})
        assert json.loads(await other.recv())["text"] == "still here"
        with pytest.raises(ConnectionClosed):
            await socket_numbers(stalled)


async def test_overflow_close_ends_an_event_stream_with_retry(board: WebServer, name: str) -> None:
    url = f"{board.url}/notes/{name}/strict"
    async with open_events(url, receive_buffer=SMALL) as slow:
        await publish_many(board, name)
        *frames, last = await slow.rest()
        assert last.retry is not None
        assert last.data is None
        got = [int(frame.json["text"].split()[0]) for frame in frames if frame.data is not None]
        assert got == list(range(len(got)))
        assert 16 <= len(got) < COUNT


async def test_overflow_close_ends_a_socket_with_1013(board: WebServer, name: str) -> None:
    async with open_slow_socket(board, f"/notes/{name}/strict-ws") as slow:
        await publish_many(board, name)
        with pytest.raises(ConnectionClosed) as closed:
            await socket_numbers(slow)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013


@pytest.mark.parametrize("inline", ["1", "0"], ids=["inline", "woken"])
async def test_a_drain_waits_for_no_client_that_does_not_read(inline: str, name: str) -> None:
    """One message fills all buffers, so that nothing more can leave: not even the farewell."""

    async def count() -> int:
        return int(await get_json(f"{server.url}/subscribers"))

    async def both_are_here() -> bool:
        return await count() == 2

    async def nobody_is_left() -> bool:
        return await count() == 0

    environment = {"MAX_MESSAGE_SIZE": "100000000", "INLINE_SENDS": inline}
    with WebServer("board:app", environment=environment) as server:
        async with (
            open_events(f"{server.url}/notes/{name}/events", receive_buffer=SMALL),
            open_slow_socket(server, f"/notes/{name}/listen") as peer,
        ):
            await until(both_are_here, "two streams")
            peer.transport.pause_reading()  # else it refuses so long a frame by closing
            await post(f"{server.url}/notes/{name}/many?count=1&size=16000000", None)
            assert await count() == 2
            await post(f"{server.url}/drain", None)
            await until(nobody_is_left, "the end of both streams")


async def test_sigterm_with_clients_that_do_not_read(name: str) -> None:
    """The server itself would wait for bytes that nobody takes."""
    with WebServer("board:app") as server:
        async with (
            open_events(f"{server.url}/notes/{name}/events", receive_buffer=SMALL),
            open_slow_socket(server, f"/notes/{name}/listen"),
        ):
            await publish_many(server, name)
            assert await asyncio.to_thread(server.terminate) < 20.0
            assert "Application shutdown complete" in server.log
