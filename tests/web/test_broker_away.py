"""A broker that is away: at start-up, and under a server that runs."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from fastapi_broadcaster import (
    BackendUnavailableError,
    Broadcaster,
    ChannelTemplate,
    Subscriber,
    channel_router,
)
from fastapi_broadcaster.backends import SCHEMES
from servers import Redis, free_port

from .clients import WAIT, open_events, post, until
from .processes import WebServer

KNOWN = ", ".join(f"{scheme}://" for scheme in SCHEMES)
BLOCKED = """
import sys
sys.modules["redis"] = None
from fastapi_broadcaster import Broadcaster
Broadcaster("memory://")
try:
    Broadcaster("{scheme}://localhost")
except ImportError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def outage() -> Iterator[WebServer]:
    """A board whose Redis has gone."""
    with Redis.private() as redis:
        environment = {"BROADCASTER_URL": redis.url, "BROKER_TIMEOUT": "0.3"}
        with WebServer("board:app", environment=environment) as server:
            redis.kill()
            yield server


async def test_post_is_503_with_retry_after(outage: WebServer, name: str) -> None:
    for path, body in [("notes", {"text": "x"}), ("texts", {"text": "x"})]:
        answer = await post(f"{outage.url}/{path}/{name}", body)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "nothing was published" in answer.json()["detail"]


@pytest.mark.parametrize("form", ["events", "lazy", "both", "named", "until-done"])
async def test_event_stream_is_200_retry_and_end(outage: WebServer, name: str, form: str) -> None:
    retries = set()
    for turn in range(5):
        if turn >= 2 and len(retries) > 1:
            break  # two of a thousand may be the same
        async with open_events(f"{outage.url}/notes/{name}/{form}") as events:
            assert events.status == 200
            assert events.headers["content-type"].startswith("text/event-stream")
            frames = await events.rest()
            assert all(frame.data is None for frame in frames)
            assert frames[-1].retry is not None
            assert 1_000 <= frames[-1].retry <= 5_000
            retries.add(frames[-1].retry)
    assert len(retries) > 1, "not jittered"


@pytest.mark.parametrize("form", ["ws", "listen", "envelope", "signed"])
async def test_socket_is_accepted_and_closed_with_1013(
    outage: WebServer, name: str, form: str
) -> None:
    async with connect(f"{outage.ws_url}/notes/{name}/{form}") as peer:
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(peer.recv(), WAIT)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013


async def test_streams_that_were_open_stay_and_go_on(name: str) -> None:
    with Redis.private() as redis:
        environment = {"BROADCASTER_URL": redis.url, "BROKER_TIMEOUT": "5"}
        with WebServer("board:app", environment=environment) as server:
            url = f"{server.url}/notes/{name}"
            async with (
                open_events(f"{url}/events") as events,
                connect(f"{server.ws_url}/notes/{name}/ws") as peer,
            ):
                await asyncio.to_thread(redis.kill)
                await peer.send('{"text": "in the outage"}')
                assert "BackendUnavailableError" in str(await asyncio.wait_for(peer.recv(), WAIT))
                await asyncio.to_thread(redis.start)

                async def published() -> bool:
                    return (await post(url, {"text": "again"})).status_code == 202

                await until(published, "a publish after the outage")
                assert (await events.event()).event == "gap"
                assert (await events.event()).json["text"] == "again"
                assert '"again"' in str(await asyncio.wait_for(peer.recv(), WAIT))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_connect_names_host_and_port_and_never_the_password(host: str) -> None:
    port = free_port()
    broadcaster = Broadcaster(f"redis://ann:hunter2@{host}:{port}/3", connect_timeout=2)
    begun = time.monotonic()
    with pytest.raises(BackendUnavailableError) as raised:
        await broadcaster.connect()
    assert time.monotonic() - begun < 9  # by default it would be ten
    assert host in str(raised.value)
    assert str(port) in str(raised.value)
    shown: list[object] = [broadcaster, broadcaster.health(), *chain(raised.value)]
    assert not [one for one in shown if "hunter2" in f"{one} {one!r}"]


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


async def test_a_server_that_does_not_answer_is_given_up_in_time() -> None:
    with Redis.private() as redis:
        redis.pause()
        try:
            begun = time.monotonic()
            with pytest.raises(BackendUnavailableError) as raised:
                await Broadcaster(redis.url, connect_timeout=0.5).connect()
            assert time.monotonic() - begun < 9  # by default it would be ten
            assert str(redis.port) in str(raised.value)
        finally:
            redis.resume()


def test_the_lifespan_of_an_app_fails_with_it() -> None:
    port = free_port()
    broadcaster = Broadcaster(f"redis://127.0.0.1:{port}", connect_timeout=2)
    app = FastAPI(lifespan=broadcaster.lifespan)
    with pytest.raises(BackendUnavailableError, match=str(port)):
        TestClient(app).__enter__()
    assert not hasattr(app.state, "broadcaster")


def test_uvicorn_does_not_start_and_shows_no_password() -> None:
    url = f"redis://:hunter2@127.0.0.1:{free_port()}"
    server = WebServer("board:app", environment={"BROADCASTER_URL": url})
    with pytest.raises(AssertionError, match="the server ended") as raised, server:
        pass
    assert "BackendUnavailableError" in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("nope://localhost", f"unknown backend nope://: use {KNOWN}"),
        ("localhost:6379", KNOWN),
        ("", KNOWN),
        ("memory://?size=3", "unknown option 'size'"),
        ("memory://?history=x", "history='x' is not a number"),
        ("memory://?history=0", "must be positive"),
        ("redis://localhost?nope=1", "unknown option 'nope'"),
    ],
)
def test_urls_that_are_refused(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        Broadcaster(url)


@pytest.mark.parametrize("url", ["nope://u:hunter2@h", "redis://u:hunter2@h?nope=1"])
def test_refusals_show_no_password(url: str) -> None:
    with pytest.raises(ValueError, match="unknown") as raised:
        Broadcaster(url)
    assert not [one for one in chain(raised.value) if "hunter2" in f"{one} {one!r}"]


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_missing_extra_is_an_import_error_with_the_pip_line(scheme: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCKED.format(scheme=scheme)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert "pip install 'fastapi-broadcaster[redis]'" in done.stdout
    assert f"{scheme}://" in done.stdout


def test_a_subscriber_that_never_came_to_be_is_not_closed() -> None:
    error = BackendUnavailableError("away")
    assert not Subscriber.failed([], error).closed


def test_a_router_needs_no_broker_to_be_made() -> None:
    assert channel_router(ChannelTemplate("rooms.{room}", str), "/rooms/{room}").routes
