"""publish_sync: from `def` handlers, threads and scripts, and never on the loop's own thread."""

import asyncio
import subprocess
import sys
import threading
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_broadcaster import (
    Broadcaster,
    BroadcasterDep,
    Channel,
    ChannelTemplate,
    MessageTooLargeError,
    Receipt,
    SerializationError,
    channel,
    channel_router,
)
from servers import Redis

rooms = ChannelTemplate("rooms.{room}", int)
SCRIPT = """
from fastapi_broadcaster import Broadcaster, ChannelTemplate
broadcaster = Broadcaster({url!r})
room = broadcaster.channel(ChannelTemplate("rooms.{{room}}", int), room="a")
print([room.publish_sync(number).channel for number in range(3)])
broadcaster.publish_sync("rooms.a", "3")
"""


def test_in_a_def_handler() -> None:
    app = FastAPI(lifespan=Broadcaster("memory://").lifespan)
    app.include_router(channel_router(rooms, "/rooms/{room}"))

    @app.post("/sync/{room}")
    def say(room: Annotated[Channel[int], Depends(channel(rooms))], number: int) -> Receipt:
        return room.publish_sync(number)

    with TestClient(app) as client, client.websocket_connect("/rooms/a/ws") as socket:
        for number in range(5):
            assert client.post(f"/sync/a?number={number}").json()["channel"] == "rooms.a"
        assert [socket.receive_json() for _ in range(5)] == list(range(5))


def test_on_the_loops_thread_it_refuses() -> None:
    app = FastAPI(lifespan=Broadcaster("memory://").lifespan)

    @app.post("/")
    async def say(broadcaster: BroadcasterDep) -> str:
        with pytest.raises(RuntimeError, match="await publish"):
            broadcaster.publish_sync("rooms.a", "1")
        return (await broadcaster.publish("rooms.a", "1")).channel

    with TestClient(app) as client:
        assert client.post("/").json() == "rooms.a"


def test_errors_come_to_the_caller() -> None:
    broadcaster = Broadcaster("memory://", max_message_size=3)
    with pytest.raises(MessageTooLargeError):
        broadcaster.publish_sync("rooms.a", "four")
    with pytest.raises(SerializationError):
        broadcaster.channel(rooms, room="a").publish_sync("x")  # type: ignore[arg-type]


async def test_a_loop_takes_over_what_a_script_began() -> None:
    broadcaster = Broadcaster("memory://")
    before = set(threading.enumerate())
    ids: list[str | None] = []

    def in_a_thread() -> None:
        ids.append(broadcaster.publish_sync("rooms.a", "1").id)

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    async with broadcaster, broadcaster.subscribe("rooms.a", history="all") as events:
        event = await events.get()
    assert (event.message, event.id) == ("1", ids[0])
    names = {one.name for one in set(threading.enumerate()) - before}
    assert "broadcaster-portal" not in names


@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_in_a_script_without_a_loop(kind: str, redis_server: Redis) -> None:
    url = "memory://" if kind == "memory" else redis_server.url
    listening = Broadcaster(redis_server.url)
    async with listening, listening.channel(rooms, room="a").subscribe() as events:
        done = await asyncio.to_thread(run_script, url)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.strip() == str(["rooms.a"] * 3)
        if kind == "redis":
            assert [(await events.get()).message for _ in range(4)] == [0, 1, 2, 3]


def run_script(url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", SCRIPT.format(url=url)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)
