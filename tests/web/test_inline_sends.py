"""Streams behind middleware: nothing tells an inline send from one of the stream's own task."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.client import connect

from .clients import WAIT, EventStream, get_json, open_events, post
from .processes import WebServer

SSE_ONLY = ["gzip", "cors", "base"]
KINDS = [
    "none",
    "with_token",
    "with_token_slowly",
    "with_asyncio_timeout",
    "with_anyio_timeout",
    "after_asyncio_timeout",
    "after_anyio_timeout",
    "after_no_time",
    "after_no_anyio_time",
    "with_task_group",
    "all",
]
MESSAGES = [f"message {number}" for number in range(30)]


@pytest.fixture(
    scope="module",
    params=[("1", "uvloop", "httptools"), ("1", "asyncio", "h11"), ("0", "uvloop", "httptools")],
    ids=["inline", "inline-plain", "woken"],
)
def wrapped(request: pytest.FixtureRequest) -> Iterator[WebServer]:
    inline, loop, http = request.param
    arguments = ["--loop", loop, "--http", http]
    environment = {"INLINE_SENDS": inline}
    with WebServer("wrapped:app", arguments=arguments, environment=environment) as server:
        yield server


async def check_tasks(server: WebServer, prefix: str, streams: int) -> None:
    """Each stream sent from one task, which is no other stream's and none of the engine's."""
    assert await get_json(f"{server.url}/faults") == []
    sends = await get_json(f"{server.url}/sends")
    tasks = [names for key, names in sends.items() if key.startswith(f"{prefix} ")]
    assert [len(names) for names in tasks] == [1] * streams, tasks
    names = [name for [name] in tasks]
    assert len(set(names)) == streams
    assert not [name for name in names if name == "none" or name.startswith("broadcaster")]
    assert "Traceback" not in server.log


async def check_events(events: EventStream) -> None:
    assert [(await events.event()).json for _ in MESSAGES] == MESSAGES


async def publish(server: WebServer, kind: str, name: str) -> None:
    """One by one, then several at once, so that events leave alone and together."""
    for text in MESSAGES[:10]:
        assert (await post(f"{server.url}/{kind}/rooms/{name}", text)).status_code == 202
    async with connect(f"{server.ws_url}/none/rooms/{name}/ws") as peer:
        for text in MESSAGES[10:]:
            await peer.send(text)
        for _ in MESSAGES[10:]:
            await asyncio.wait_for(peer.recv(), WAIT)


@pytest.mark.parametrize("kind", SSE_ONLY + KINDS)
async def test_event_streams(wrapped: WebServer, name: str, kind: str) -> None:
    path = f"/{kind}/rooms/{name}/events"
    headers = {"Accept-Encoding": "gzip", "Origin": "https://page.example"}
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(open_events(wrapped.url + path, headers=headers))
            for _ in range(3)
        ]
        await publish(wrapped, kind, name)
        for events in streams:
            assert "content-encoding" not in events.headers
            assert ("access-control-allow-origin" in events.headers) == (kind in ("cors", "all"))
            assert ("x-forwarded-by" in events.headers) == (kind in ("base", "all"))
            await check_events(events)
        await check_tasks(wrapped, path, 3)


@pytest.mark.parametrize("kind", KINDS)
async def test_sockets(wrapped: WebServer, name: str, kind: str) -> None:
    path = f"/{kind}/rooms/{name}/ws"
    async with (
        connect(wrapped.ws_url + path) as one,
        connect(wrapped.ws_url + path) as two,
    ):
        for text in MESSAGES:
            await one.send(text)
        for peer in (one, two):
            got = [await asyncio.wait_for(peer.recv(), WAIT) for _ in MESSAGES]
            assert got == MESSAGES
        await check_tasks(wrapped, path, 2)


@pytest.mark.parametrize(
    "kind", ["none", "base", "with_token_slowly", "after_anyio_timeout", "all"]
)
async def test_clients_that_leave_meanwhile(wrapped: WebServer, name: str, kind: str) -> None:
    url = f"{wrapped.url}/{kind}/rooms/{name}/events"
    async with open_events(url) as stays:
        speaking = asyncio.create_task(publish(wrapped, kind, name))
        while not speaking.done():
            async with open_events(url) as leaves:
                await leaves.frame()
        await speaking
        await check_events(stays)
    assert await get_json(f"{wrapped.url}/faults") == []
    assert "Traceback" not in wrapped.log
