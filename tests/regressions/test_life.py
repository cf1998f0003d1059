"""Lifespans and signals that took from others what was not theirs."""

from __future__ import annotations

import subprocess
import sys

from fastapi import FastAPI

from fastapi_broadcaster import Broadcaster, ChannelTemplate, channel_router
from tests.conformance.tools import PATIENCE, take


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


async def test_a_lifespan_inside_async_with_leaves_it_connected() -> None:
    async with (
        Broadcaster("memory://") as broadcaster,
        broadcaster.subscribe("c") as subscriber,
    ):
        async with broadcaster.lifespan(app_of(broadcaster)):
            pass
        await broadcaster.publish("c", "x")
        assert await take(subscriber, 1) == ["x"]


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
        async with asyncio.timeout(10):
            async for event in subscriber:
                pass
        print("the stream has ended; heard", heard == [signal.SIGTERM])

asyncio.run(serve())
"""


def test_a_loop_that_went_does_not_keep_a_signal_from_the_others() -> None:
    """Neither from the broadcasters that came after it nor from the handler that was there."""
    script = subprocess.run(
        [sys.executable, "-c", FORGOTTEN], capture_output=True, text=True, timeout=PATIENCE
    )
    assert "the stream has ended; heard True" in script.stdout, script.stderr
