"""Second processes of the promise tests: `python -m tests.conformance.processes ROLE URL ...`."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson

from fastapi_broadcaster import Broadcaster
from tests import trimming
from tests.conformance.tools import reading, until

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds


def broadcaster_at(url: str) -> Broadcaster:
    """With more patience than by default, for a machine that stands still."""
    return Broadcaster(url, connect_timeout=30.0, subscribe_timeout=30.0, publish_timeout=30.0)


class Peer:
    """A second process, and lines to and from it."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def line(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return (await self._process.stdout.readline()).decode().rstrip("\n")

    def go(self) -> None:
        """Let it do its next thing."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    async def ended(self) -> None:
        async with asyncio.timeout(PATIENCE):
            assert await self._process.wait() == 0


@asynccontextmanager
async def peer(role: Callable[..., Awaitable[None]], *arguments: str) -> AsyncIterator[Peer]:
    """Runs one of the functions below in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", __name__, role.__name__, *arguments),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")])},
        stdin=PIPE,
        stdout=PIPE,
        limit=2**24,
    )
    try:
        yield Peer(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


# -- what runs there; each begins with the URL of a broker and says "live" when it is ready ------


async def publish(url: str, channel: str, first: str) -> None:
    """Publish until told to stop, some at once; say how many it was."""
    async with broadcaster_at(url) as broadcaster:
        print("live", flush=True)
        stop, number = _told(), 0
        while not stop.done():
            messages = [f"{first} {number + one}" for one in range(5)]
            await asyncio.gather(*(broadcaster.publish(channel, one) for one in messages))
            number += len(messages)
            await asyncio.sleep(0.005)
    print(number, flush=True)


async def trim(url: str, channel: str, steps: str, step: str) -> None:
    """Remove the oldest messages, a few at a time."""
    print("live", flush=True)
    await _told()
    for number in range(int(steps)):
        await trimming.trim(url, channel, number * int(step), int(step))
        await asyncio.sleep(0.01)


async def talk(url: str, channel: str, first: str, others: str, count: str) -> None:
    """With four publishers say `count` messages each, and hear as many as `others` says in all."""
    async with (
        broadcaster_at(url) as broadcaster,
        reading(broadcaster.subscribe(channel)) as reader,
    ):
        print("live", flush=True)
        await _told()

        async def speak(who: str) -> None:
            for number in range(int(count)):
                await broadcaster.publish(channel, f"{who} {number}")

        await asyncio.gather(*(speak(f"{first}{one}") for one in range(4)))
        await until(lambda: len(reader.messages) >= int(others))
    assert reader.gaps == []
    print(orjson.dumps(reader.messages).decode(), flush=True)


async def read(url: str, *subscriptions: str) -> None:
    """Subscribe to channels that a comma is between; of ten messages on them in turn read five.

    Says what was read, and the cursor, of each subscription.
    """
    async with broadcaster_at(url) as broadcaster:
        for channels in (names.split(",") for names in subscriptions):
            for number in range(10):
                await broadcaster.publish(channels[number % len(channels)], str(number))
            async with broadcaster.subscribe(channels, history="all") as subscriber:
                heard = [(await subscriber.get()).message for _ in range(5)]
                print(orjson.dumps([heard, subscriber.cursor]).decode(), flush=True)


def _told() -> asyncio.Future[bytes]:
    return asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.readline)


if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
