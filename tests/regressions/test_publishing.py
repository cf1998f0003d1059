"""Publishers that waited for ever, or too long, or not at all."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any

import pytest

from fastapi_broadcaster import (
    BackendUnavailableError,
    Broadcaster,
    ConnectionLostError,
    Gap,
    MemoryBackend,
    Message,
    Receipt,
)
from fastapi_broadcaster.messages import Cursor
from servers import Postgres, Redis
from tests.brokers import QUICK, CutMemory, Line
from tests.conformance.tools import PATIENCE, take, until


class Held(MemoryBackend):
    """Publishes once it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = 0
        self.let_go = asyncio.Event()

    async def publish(self, messages: Sequence[Message]) -> Sequence[Any]:
        self.entered += 1
        await self.let_go.wait()
        return await super().publish(messages)


@pytest.mark.parametrize("turns", range(4))
async def test_disconnect_leaves_no_publisher_waiting(turns: int) -> None:
    """Whenever it comes: also before a batch that has been put together takes its first step."""
    backend = Held()
    broadcaster = Broadcaster(backend=backend)
    await broadcaster.connect()
    publishing = [asyncio.create_task(broadcaster.publish("c", str(n))) for n in range(3)]
    await until(lambda: backend.entered)
    backend.let_go.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    await broadcaster.disconnect()
    async with asyncio.timeout(PATIENCE):
        outcomes = await asyncio.gather(*publishing, return_exceptions=True)
    assert all(isinstance(one, Receipt | BackendUnavailableError) for one in outcomes), outcomes


class Visited(CutMemory):
    """Whenever it subscribes, somebody else comes meanwhile."""

    def __init__(self, line: Line) -> None:
        super().__init__(line, history=1_024)
        self.broadcaster: Broadcaster | None = None
        self.visits: list[asyncio.Task[None]] = []

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, Cursor]:
        cursors = await super().subscribe(channels)
        if self.broadcaster is not None:
            come = asyncio.Event()
            self.visits.append(asyncio.create_task(self._visit(self.broadcaster, come)))
            await come.wait()
        return cursors

    async def _visit(self, broadcaster: Broadcaster, come: asyncio.Event) -> None:
        come.set()
        async with broadcaster.subscribe(f"visit.{len(self.visits)}"):
            await asyncio.Event().wait()


async def test_publishers_go_on_after_an_outage_though_newcomers_never_cease() -> None:
    line = Line()
    backend = Visited(line)
    async with (
        Broadcaster(backend=backend, backoff=QUICK, publish_timeout=PATIENCE) as broadcaster,
        broadcaster.subscribe("mine") as subscriber,
    ):
        backend.broadcaster = broadcaster
        line.cut()
        line.down = False
        await until(lambda: broadcaster.health().reconnects == 1)
        try:
            await broadcaster.publish("mine", "x")
            assert await take(subscriber, 1) == ["x"]
        finally:
            backend.broadcaster = None
            for visit in backend.visits:
                visit.cancel()
            await asyncio.wait(backend.visits)


class Flickering(MemoryBackend):
    """Its second connection is lost again in the turn of the loop in which it has come live."""

    def __init__(self) -> None:
        super().__init__()
        self.generation = 0
        self.lose = asyncio.Event()
        self.go_on = asyncio.Event()
        self.publish_is_seen_by: Callable[[], None] = lambda: None

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        self.generation += 1
        self.lose.clear()
        if self.generation > 1:
            await self.go_on.wait()
        if self.generation > 2:
            async for batch in super().listen():
                yield batch
        yield ()
        await self.lose.wait()
        raise ConnectionLostError("it was there for a moment")

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, Cursor]:
        if self.generation == 2:
            self.lose.set()
        return await super().subscribe(channels)

    async def publish(self, messages: Sequence[Message]) -> Sequence[Any]:
        self.publish_is_seen_by()
        return await super().publish(messages)


async def test_nothing_leaves_over_a_connection_that_flickered() -> None:
    """Whoever waited for it looks again: subscribers would not hear the message."""
    backend = Flickering()
    async with (
        Broadcaster(backend=backend, backoff=QUICK) as broadcaster,
        broadcaster.subscribe("c") as subscriber,
    ):
        states: list[str] = []
        backend.publish_is_seen_by = lambda: states.append(broadcaster.health().state)
        backend.lose.set()
        await until(lambda: backend.generation == 2)
        publishing = asyncio.create_task(broadcaster.publish("c", "x"))
        await asyncio.sleep(0)
        backend.go_on.set()
        assert await take(subscriber, 1) == ["x"]
        await publishing
    assert states == ["connected"]


FORKING = """
import os
from fastapi_broadcaster import Broadcaster

broadcaster = Broadcaster("memory://")
broadcaster.publish_sync("c", "x")
child = os.fork()
if child == 0:
    try:
        broadcaster.publish_sync("c", "y")
    except Exception as error:
        print(type(error).__name__, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
broadcaster.publish_sync("c", "z")
print("both have ended")
"""


def test_publish_sync_in_a_forked_child_works_or_raises() -> None:
    """As in a pre-fork server or a multiprocessing pool."""
    script = subprocess.run(
        [sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=90
    )
    assert script.returncode == 0, script.stderr
    assert "both have ended" in script.stdout


FORKING_ON_SERVERS = """
import gc
import multiprocessing
import sys
from fastapi_broadcaster import Broadcaster

broadcaster = Broadcaster(sys.argv[1])
before = broadcaster.channel("c")

def child():
    gc.collect()
    before.publish_sync("child")

broadcaster.publish_sync("c", "parent")
for _ in range(5):
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0, process.exitcode
    broadcaster.publish_sync("c", "parent")
print("all were published")
"""


@pytest.mark.parametrize("scheme", ["redis-stream", "postgres-stream"])
def test_a_forked_child_leaves_its_parents_connections_alone(scheme: str) -> None:
    """What it freed of them left the parent's epoll, and the parent waited for replies in vain."""
    with Redis.private() if scheme == "redis-stream" else Postgres.private() as server:
        url = f"{scheme}://{server.url.partition('://')[2]}"
        script = subprocess.run(
            [sys.executable, "-c", FORKING_ON_SERVERS, url],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert "all were published" in script.stdout, script.stderr


def test_publish_sync_on_a_loop_that_does_not_run_is_an_error() -> None:
    broadcaster = Broadcaster("memory://")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(broadcaster.connect())
    raised: list[str] = []

    def publish() -> None:
        try:
            broadcaster.publish_sync("c", "x")
        except RuntimeError as error:
            raised.append(str(error))

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    loop.run_until_complete(broadcaster.disconnect())
    loop.close()
    assert raised
    assert "does not run" in raised[0]


class Refusing(MemoryBackend):
    """Says of each message that nothing has left, so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    async def publish(self, messages: Sequence[Message]) -> Sequence[Any]:
        if self.left:
            self.left -= 1
            return [ConnectionLostError("not now") for _ in messages]
        return await super().publish(messages)


@pytest.mark.parametrize("publishers", [1, 3])
async def test_what_has_not_left_leaves_later(publishers: int) -> None:
    """Also of a lone message, and with a pause between."""
    async with (
        Broadcaster(backend=Refusing(2)) as broadcaster,
        broadcaster.subscribe("c") as subscriber,
    ):
        await asyncio.gather(*(broadcaster.publish("c", str(n)) for n in range(publishers)))
        assert sorted(await take(subscriber, publishers)) == [str(n) for n in range(publishers)]


async def test_what_never_leaves_is_given_up_in_time() -> None:
    backend = Refusing(1_000_000)
    async with Broadcaster(backend=backend, publish_timeout=0.5) as broadcaster:
        publishing = [broadcaster.publish("c", str(n)) for n in range(3)]
        for outcome in await asyncio.gather(*publishing, return_exceptions=True):
            assert isinstance(outcome, BackendUnavailableError)
            assert not outcome.maybe_published
    assert backend.left > 999_900


class Frozen(MemoryBackend):
    """Swallows a message, and then every attempt to connect."""

    swallowed = False

    async def reach(self) -> None:
        await asyncio.sleep(10 * PATIENCE)

    async def publish(self, messages: Sequence[Message]) -> Sequence[Any]:
        if self.swallowed:
            await self.reach()
        self.swallowed = True
        await asyncio.sleep(0.2)
        raise BackendUnavailableError("no answer", maybe_published=True)


async def test_who_comes_behind_a_message_without_an_answer_waits_no_longer_for_it() -> None:
    """On a frozen broker it was three times `publish_timeout`."""
    async with Broadcaster(backend=Frozen(), publish_timeout=0.5) as broadcaster:
        async with asyncio.timeout(PATIENCE):
            publishing = [broadcaster.publish("c", str(n)) for n in range(3)]
            first, *behind = await asyncio.gather(*publishing, return_exceptions=True)
            with pytest.raises(BackendUnavailableError, match="nothing was published"):
                await broadcaster.publish("c", "later")
    assert isinstance(first, BackendUnavailableError)
    assert first.maybe_published
    for outcome in behind:
        assert isinstance(outcome, BackendUnavailableError)
        assert not outcome.maybe_published
