"""What a generation began that is over does nothing any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fastapi_broadcaster import Broadcaster, Gap
from fastapi_broadcaster.backends import _redis_listening, _redis_reader
from fastapi_broadcaster.backends.redis_stream import RedisStreamBackend
from tests.conformance.tools import publish_all, reading, until
from tests.redis_stream.broker import RedisStreamBroker


class Hold:
    """Holds one call of a function, before it or after it, and lets all others pass."""

    def __init__(self, call: Callable[..., Awaitable[Any]], *, after: bytes = b"") -> None:
        """`after`: hold the first that sends such a command, when it has its replies."""
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self._call = call
        self._after = after

    async def __call__(self, *arguments: Any) -> Any:
        if self._after:
            replies = await self._call(*arguments)
            if any(self._after in command for command in arguments[1]):
                await self._wait()
            return replies
        await self._wait()
        return await self._call(*arguments)

    async def _wait(self) -> None:
        if not self.begun.is_set():
            self.begun.set()
            await self.go_on.wait()


def readers() -> int:
    return sum(task.get_name() == "broadcaster-redis-stream" for task in asyncio.all_tasks())


async def outage(own: RedisStreamBroker, broadcaster: Broadcaster) -> None:
    """Lose the connections, until the next generation has begun."""
    backend = broadcaster.backend
    assert isinstance(backend, RedisStreamBackend)
    before = backend._listening
    await own.drop_clients()
    await until(lambda: backend._listening not in (before, None))


async def test_a_reader_that_it_was_about_to_add(
    own: RedisStreamBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would go on reading, and move the places of the readers that are heard."""
    monkeypatch.setattr(_redis_listening, "WIDTH", 2)
    names = [f"room.{number}" for number in range(4)]
    async with own.broadcaster(publish_timeout=60, subscribe_timeout=60) as broadcaster:
        assert isinstance(broadcaster.backend, RedisStreamBackend)
        server = broadcaster.backend._server
        async with broadcaster.subscribe(names[:2]):
            hold = Hold(server.revive)
            monkeypatch.setattr(server, "revive", hold)
            subscription = broadcaster.subscribe(names[2:])
            entering = asyncio.create_task(subscription.__aenter__())
            await hold.begun.wait()
            await outage(own, broadcaster)
            hold.go_on.set()
            await entering
            await until(lambda: readers() == 2)
            await subscription.__aexit__(None, None, None)


async def test_a_gap_that_it_was_about_to_tell(
    own: RedisStreamBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next generation finds it anew."""
    async with (
        own.broadcaster(publish_timeout=60) as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        await publish_all(broadcaster, "room", ["a", "b"])
        await reader.until("b")
        hold = Hold(_redis_reader.ask, after=b"XINFO")
        monkeypatch.setattr(_redis_reader, "ask", hold)
        await own.wipe()
        await outage(own, broadcaster)
        await hold.begun.wait()
        await outage(own, broadcaster)
        hold.go_on.set()
        await publish_all(broadcaster, "room", ["end"])
        await reader.until("end")
    assert reader.gaps == [Gap("room", "reset")]
