"""Lifespans and signals that took from others what was not theirs."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from fastapi import FastAPI

from fastapi_broadcaster import Broadcaster, ChannelTemplate, channel_router
from tests.conformance.tools import take


def app_of(broadcaster: Broadcaster) -> FastAPI:
    app = FastAPI(lifespan=broadcaster.lifespan)
    app.include_router(channel_router(ChannelTemplate("c", str), "/c"))
    return app


async def test_a_second_apps_lifespan_leaves_the_firsts_broadcaster_alone() -> None:
    broadcaster = Broadcaster("memory://")
    first, second = app_of(broadcaster), app_of(broadcaster)
    async with broadcaster.lifespan(first), broadcaster.subscribe("c") as subscriber:
        async with broadcaster.lifespan(second):
            assert second.state.broadcaster is broadcaster
        await broadcaster.publish("c", "x")
        assert await take(subscriber, 1) == ["x"]
        assert first.state.broadcaster is broadcaster
    assert broadcaster.health().state == "disconnected"


async def test_the_app_that_connected_it_leaves_it_to_the_other_one() -> None:
    """As two servers of one process: it was disconnected behind the back of the other app."""
    broadcaster = Broadcaster("memory://")
    first, second = app_of(broadcaster), app_of(broadcaster)
    for _ in range(2):
        one, other = broadcaster.lifespan(first), broadcaster.lifespan(second)
        await asyncio.gather(one.__aenter__(), other.__aenter__())
        async with broadcaster.subscribe("c") as subscriber:
            await one.__aexit__(None, None, None)
            assert not hasattr(first.state, "broadcaster")
            await broadcaster.publish("c", "x")
            assert await take(subscriber, 1) == ["x"]
            assert second.state.broadcaster is broadcaster
        await other.__aexit__(None, None, None)
        assert broadcaster.health().state == "disconnected"


async def test_a_lifespan_inside_async_with_leaves_it_connected() -> None:
    async with (
        Broadcaster("memory://") as broadcaster,
        broadcaster.subscribe("c") as subscriber,
    ):
        async with broadcaster.lifespan(app_of(broadcaster)):
            pass
        await broadcaster.publish("c", "x")
        assert await take(subscriber, 1) == ["x"]


async def test_async_with_inside_a_lifespan_leaves_it_connected() -> None:
    """In a route, say: it disconnected the whole app behind the first request."""
    broadcaster = Broadcaster("memory://")
    async with broadcaster.lifespan(app_of(broadcaster)), broadcaster.subscribe("c") as subscriber:
        async with broadcaster, broadcaster:
            pass
        await broadcaster.publish("c", "x")
        assert await take(subscriber, 1) == ["x"]
    assert broadcaster.health().state == "disconnected"


async def test_the_last_async_with_disconnects() -> None:
    broadcaster = Broadcaster("memory://")
    async with broadcaster:
        outer, inner = broadcaster.__aenter__(), broadcaster.__aenter__()
        await asyncio.gather(outer, inner)
    assert broadcaster.health().state == "connected"
    await broadcaster.__aexit__(None, None, None)
    assert broadcaster.health().state == "connected"
    await broadcaster.__aexit__(None, None, None)
    assert broadcaster.health().state == "disconnected"


async def test_what_connect_connected_stays_until_disconnect() -> None:
    broadcaster = Broadcaster("memory://")
    await broadcaster.connect()
    async with broadcaster:
        await broadcaster.connect()
    assert broadcaster.health().state == "connected"
    await broadcaster.disconnect()
    assert broadcaster.health().state == "disconnected"


async def test_disconnect_disconnects_inside_async_with_too() -> None:
    async with Broadcaster("memory://") as broadcaster:
        await broadcaster.disconnect()
        assert broadcaster.health().state == "disconnected"


async def test_a_lifespan_disconnects_where_a_script_had_published_before() -> None:
    """The connection that `publish_sync` had made of its own was taken for somebody else's."""
    broadcaster = Broadcaster("memory://")
    await asyncio.to_thread(broadcaster.publish_sync, "c", "x")
    async with broadcaster.lifespan(app_of(broadcaster)):
        assert broadcaster.loop is asyncio.get_running_loop()
    assert broadcaster.health().state == "disconnected"


FORGOTTEN = """
import asyncio
import signal
from fastapi_broadcaster import Broadcaster

heard = []
signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
forgotten = Broadcaster("memory://")
loop = asyncio.new_event_loop()
lifespan = forgotten.lifespan(None)
loop.run_until_complete(lifespan.__aenter__())
loop.close()

async def serve():
    broadcaster = Broadcaster("memory://")
    async with broadcaster.lifespan(None), broadcaster.subscribe("c") as subscriber:
        signal.raise_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            async for event in subscriber:
                pass
        print("the stream has ended; heard", heard == [signal.SIGTERM])

asyncio.run(serve())
"""


def test_a_loop_that_went_does_not_keep_a_signal_from_the_others() -> None:
    """Neither from the broadcasters that came after it nor from the handler that was there."""
    script = subprocess.run(
        [sys.executable, "-c", FORGOTTEN], capture_output=True, text=True, timeout=90
    )
    assert "the stream has ended; heard True" in script.stdout, script.stderr
