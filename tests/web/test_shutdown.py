"""SIGTERM with many streams open: all of them end, all clean up, and the process goes."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from servers import Redis

from .clients import WAIT, EventStream, open_events, post, until
from .processes import WebServer

SOON = 20.0  # seconds; a few, on a machine that is busy with other tests
MANY = 100
pytestmark = pytest.mark.usefixtures("many_files")


async def close_code(peer: ClientConnection) -> int | None:
    async with asyncio.timeout(WAIT):
        try:
            await peer.recv()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else None
    raise AssertionError("a message came instead of the end")


async def open_many(
    stack: AsyncExitStack, server: WebServer, count: int
) -> tuple[list[EventStream], list[EventStream], list[ClientConnection]]:
    """Event streams, a few in FastAPI's own form, and WebSockets; every stream has begun."""
    streams, generated, sockets = [], [], []
    for number in range(count):
        url = f"{server.url}/rooms/{number % 7}"
        streams.append(await stack.enter_async_context(open_events(f"{url}/events")))
        assert (await streams[-1].frame()).retry
        if number % 10 == 0:
            generated.append(await stack.enter_async_context(open_events(f"{url}/generated")))
        ws_url = f"{server.ws_url}/rooms/{number % 7}/ws"
        sockets.append(await stack.enter_async_context(connect(ws_url)))
    return streams, generated, sockets


async def check_end(
    streams: list[EventStream], generated: list[EventStream], sockets: list[ClientConnection]
) -> None:
    ends = await asyncio.gather(*(stream.rest() for stream in streams))
    retries = [frames[-1].retry for frames in ends]
    assert all(retry is not None and 1_000 <= retry <= 5_000 for retry in retries)
    assert len(set(retries)) > len(retries) // 2, "not jittered: all would come back at once"
    await asyncio.gather(*(stream.rest() for stream in generated))
    codes = await asyncio.gather(*map(close_code, sockets))
    assert Counter(codes) == {1012: len(sockets)}


def check_lines(lines: Path, count: int) -> None:
    assert Counter(lines.read_text().splitlines()) == {
        "sse finally": count,
        "sse dependency": count,
        "generated finally": count // 10,
        "generated dependency": count // 10,
        "ws finally": count,
        "ws dependency": count,
    }


@pytest.mark.parametrize("inline", ["1", "0"], ids=["inline", "woken"])
async def test_sigterm_ends_all_streams(inline: str, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    environment = {"LINES": str(lines), "INLINE_SENDS": inline}
    with WebServer("drained:app", environment=environment) as server:
        async with AsyncExitStack() as stack:
            opened = await open_many(stack, server, MANY)
            leaving = asyncio.create_task(asyncio.to_thread(server.terminate))
            await check_end(*opened)
            assert await leaving < SOON
        check_lines(lines, MANY)
        assert "Traceback" not in server.log
        assert "ERROR" not in server.log


async def test_sigterm_reaches_a_socket_that_is_not_relayed(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    with WebServer("drained:app", environment={"LINES": str(lines)}) as server:
        async with connect(f"{server.ws_url}/rooms/a/bare") as peer:
            leaving = asyncio.create_task(asyncio.to_thread(server.terminate))
            await close_code(peer)
            assert await leaving < SOON
        assert Counter(lines.read_text().splitlines()) == {"bare finally": 1, "bare dependency": 1}


async def test_a_subscription_that_waits_for_the_broker_does_not_delay_the_exit(
    tmp_path: Path,
) -> None:
    environment = {"LINES": str(tmp_path / "lines")}
    with Redis.private() as redis:
        environment["BROADCASTER_URL"] = redis.url
        with WebServer("drained:app", environment=environment) as server:
            async with open_events(f"{server.url}/rooms/a/events") as events:
                await events.frame()
                await asyncio.to_thread(redis.kill)
                pending = asyncio.create_task(wait_for_status(f"{server.url}/rooms/b/events"))
                socket = asyncio.create_task(wait_for_socket(f"{server.ws_url}/rooms/c/ws"))
                await wait_until_noticed(server)
                assert await asyncio.to_thread(server.terminate) < SOON
                assert (await events.rest())[-1].retry is not None
                await asyncio.gather(pending, socket)


async def wait_until_noticed(server: WebServer) -> None:
    """Until the server knows of the outage; the pending requests are on their way by then."""

    async def noticed() -> bool:
        return "connection lost" in server.log

    await until(noticed, "the loss of the connection")
    for _ in range(3):
        assert (await post(f"{server.url}/nowhere", {})).status_code == 404


async def wait_for_status(url: str) -> None:
    async with open_events(url) as events:
        assert events.status == 200
        assert (await events.rest())[-1].retry is not None


async def wait_for_socket(url: str) -> None:
    with suppress(InvalidStatus):  # Uvicorn itself may be first, with a 500
        async with connect(url, open_timeout=WAIT) as peer:
            assert await close_code(peer) == 1012
