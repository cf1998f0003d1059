"""A test run with streams left open under the TestClient ends by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = """
from fastapi import FastAPI
from fastapi.testclient import TestClient
from fastapi_broadcaster import Broadcaster, ChannelTemplate, channel_router

broadcaster = Broadcaster("memory://"{options})
app = FastAPI(lifespan=broadcaster.lifespan)
app.include_router(channel_router(ChannelTemplate("rooms.{{room}}", str), "/rooms/{{room}}"))


@app.post("/drain")
async def drain() -> None:
    broadcaster.drain()


def read_until(events, word):
    text = ""
    for chunk in events.iter_text():
        text += chunk
        if word in text:
            return text
    raise AssertionError(text)


def test_streams_that_are_left():
    with TestClient(app) as client:
        with client.stream("GET", "/rooms/a/events") as events:
            with client.websocket_connect("/rooms/a/ws") as socket:
                client.post("/rooms/a", json="hello")
                assert socket.receive_text() == "hello"
                read_until(events, "hello")
    assert broadcaster.health().state == "disconnected"


def test_that_fails_while_streams_are_open():
    with TestClient(app) as client:
        with client.stream("GET", "/rooms/b/events") as events:
            with client.websocket_connect("/rooms/b/ws") as socket:
                raise AssertionError("this test fails on purpose")


def test_event_streams_that_nobody_leaves():
    with TestClient(app) as client:
        kept = [client.stream("GET", "/rooms/c/events") for _ in range(3)]
        for one in kept:
            one.__enter__()
        client.post("/rooms/c", json="hello")
        assert broadcaster.health().subscribers == 3
    assert broadcaster.health().subscribers == 0


def test_streams_that_are_drained():
    with TestClient(app) as client:
        with client.stream("GET", "/rooms/d/events") as events:
            with client.websocket_connect("/rooms/d/ws") as socket:
                client.post("/drain")
                close = {{"type": "websocket.close", "code": 1012, "reason": "restart"}}
                assert socket.receive() == close
                assert "".join(events.iter_text()).count("retry:") == 2
        assert broadcaster.health().subscribers == 0
"""


@pytest.mark.parametrize("options", ["", ", inline_sends=False"], ids=["inline", "woken"])
def test_it_ends_by_itself(tmp_path: Path, options: str) -> None:
    (tmp_path / "test_streams.py").write_text(TESTS.format(options=options))
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=60,  # the outer kill
    )
    assert "1 failed, 3 passed" in done.stdout, done.stdout + done.stderr
    assert "fails on purpose" in done.stdout
    assert time.monotonic() - begun < 30
