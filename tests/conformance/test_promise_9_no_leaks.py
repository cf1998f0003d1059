"""Promise 9: nothing leaks, however subscribers go."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

from fastapi_broadcaster import BackendUnavailableError, Broadcaster
from tests.backends import BackendCase
from tests.brokers import Broker
from tests.conformance.tools import PATIENCE, accepted, back, lost, reading, take_until, until
from tests.conftest import Refusal

NAMES = [f"room.{number}" for number in range(5)]


def open_files() -> dict[str, int]:
    """What this process holds open, and how many of each, without the kernel's numbers."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{number}")
            found[re.sub(r"\d+|/proc/.*", "", target)] += 1
    return dict(found)


def open_tasks() -> dict[str, int]:
    """The names of all tasks but those that the loop numbers, which are the tests' own."""
    return dict(
        Counter(re.sub(r"^Task-\d+$", "Task", one.get_name()) for one in asyncio.all_tasks())
    )


class Watch:
    """What a connected broadcaster holds when nobody is subscribed."""

    def __init__(self, broker: Broker, broadcaster: Broadcaster) -> None:
        self._broker = broker
        self._broadcaster = broadcaster
        self._files = open_files()
        self._before: dict[str, object] = {"tasks": open_tasks(), "files": self._files}

    async def held(self) -> dict[str, object]:
        """What is held now, with what should be empty.

        A backend may have closed an idle connection since: fewer files are as good.
        """
        engine = self._broadcaster._engine
        assert engine is not None
        files = Counter(open_files()) | Counter(self._files)
        return {
            "tasks": open_tasks(),
            "files": dict(files),
            "subscriptions": sorted(await self._broker.subscriptions()),
            "entries": [*engine.hub.channels, *engine.hub.patterns],
            "subscribers": len(engine.hub.subscribers),
        }

    async def nothing_left(self) -> None:
        """Wait until all is as it was; what is still there is in the error."""
        wanted = {**self._before, "subscriptions": [], "entries": [], "subscribers": 0}
        await becomes(self.held, wanted)


async def becomes(
    held: Callable[[], Awaitable[dict[str, object]]], wanted: dict[str, object]
) -> None:
    """Wait until what is held is what is wanted; the error shows how they differ."""
    deadline = time.monotonic() + PATIENCE
    while (now := await held()) != wanted and time.monotonic() < deadline:
        gc.collect()
        await asyncio.sleep(0.02)
    assert now == wanted


class ProcessWatch:
    """What this process holds; what was just about to go at the beginning may go."""

    def __init__(self) -> None:
        self._before = {"tasks": open_tasks(), "files": open_files()}

    async def held(self) -> dict[str, object]:
        """What is held now, and what was held before."""
        now = {"tasks": open_tasks(), "files": open_files()}
        return {kind: Counter(now[kind]) | Counter(self._before[kind]) for kind in now}

    async def nothing_left(self) -> None:
        await becomes(self.held, dict(self._before))


async def visit(broadcaster: Broadcaster, number: int) -> None:
    """Subscribe, hear one message of one's own, go."""
    name = NAMES[number % len(NAMES)]
    async with broadcaster.subscribe(name) as subscriber:
        await broadcaster.publish(name, str(number))
        async with asyncio.timeout(3 * PATIENCE):  # a broker may be restarted meanwhile
            while (await subscriber.get()).message != str(number):
                pass


async def test_200_subscribers_that_come_and_go(own_broker: Broker) -> None:
    async with own_broker.broadcaster(linger=0.1) as broadcaster:
        await own_broker.subscriptions()
        await broadcaster.publish("warm", "up")
        watch = Watch(own_broker, broadcaster)
        await asyncio.gather(*(visit(broadcaster, number) for number in range(200)))
        await watch.nothing_left()


async def test_200_patterns_that_come_and_go(refused: Refusal, own_broker: Broker) -> None:
    async with own_broker.broadcaster(linger=0.1) as broadcaster:
        if refused.pattern(broadcaster, "room.*"):
            return
        watch = Watch(own_broker, broadcaster)

        async def visit_pattern(number: int) -> None:
            async with broadcaster.subscribe(pattern=f"room.{number % 5}*") as subscriber:
                await broadcaster.publish(NAMES[number % 5], str(number))
                await take_until(subscriber, str(number))

        await asyncio.gather(*(visit_pattern(number) for number in range(200)))
        await watch.nothing_left()


async def test_linger_keeps_the_subscription_for_a_while(own_broker: Broker) -> None:
    async with own_broker.broadcaster(linger=60) as broadcaster:
        async with broadcaster.subscribe("room"):
            pass
        await asyncio.sleep(0.2)
        await until(lambda: _only_room(own_broker))
    async with own_broker.broadcaster(linger=0.5) as broadcaster:
        async with broadcaster.subscribe("room"):
            pass
        async with broadcaster.subscribe("room"):
            await asyncio.sleep(0.7)
            await until(lambda: _only_room(own_broker))
        await until(lambda: _empty(own_broker))


async def _only_room(broker: Broker) -> bool:
    return await broker.subscriptions() == {"room"}


async def _empty(broker: Broker) -> bool:
    return await broker.subscriptions() == set()


async def test_cancelled_at_any_moment(own_broker: Broker) -> None:
    """While they subscribe, while they read, while they go."""
    dice = random.Random(9)
    async with own_broker.broadcaster(linger=0.05) as broadcaster:
        await own_broker.subscriptions()
        await broadcaster.publish("warm", "up")
        watch = Watch(own_broker, broadcaster)
        for _ in range(4):
            visits = [asyncio.create_task(visit(broadcaster, number)) for number in range(50)]
            await asyncio.sleep(0)
            for task in dice.sample(visits, 30):
                for _ in range(dice.randint(0, 5)):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait(visits)
            for task in visits:
                assert task.cancelled() or task.exception() is None
        await watch.nothing_left()


async def test_a_reader_that_breaks_off(own_broker: Broker) -> None:
    """An exception in the reader, an abandoned `stream()`, a closed one."""
    async with own_broker.broadcaster(linger=0.05) as broadcaster:
        await own_broker.subscriptions()
        watch = Watch(own_broker, broadcaster)
        for number in range(20):
            try:
                async with broadcaster.subscribe(NAMES) as subscriber:
                    await broadcaster.publish(NAMES[0], "hello")
                    async for _ in subscriber:
                        raise ZeroDivisionError(number)
            except ZeroDivisionError:
                pass
        await watch.nothing_left()


async def test_kills_in_between(own_broker: Broker) -> None:
    options: dict[str, Any] = {"linger": 0.05, "subscribe_timeout": 0.3, "publish_timeout": 0.3}
    async with own_broker.broadcaster(**options) as broadcaster:
        await own_broker.subscriptions()
        await broadcaster.publish("warm", "up")
        watch = Watch(own_broker, broadcaster)
        for _ in range(3):
            visits = [asyncio.create_task(visit(broadcaster, number)) for number in range(40)]
            await asyncio.sleep(0.005)
            await own_broker.kill()
            await lost(broadcaster)
            visits += [asyncio.create_task(visit(broadcaster, number)) for number in range(40)]
            await asyncio.sleep(0.02)
            for task in visits[::3]:
                task.cancel()
            await asyncio.sleep(0.35)
            await own_broker.restart()
            for task in visits:
                if not task.done():
                    task.cancel()
            await asyncio.wait(visits)
            for task in visits:
                if not task.cancelled():
                    assert isinstance(task.exception(), BackendUnavailableError | None)
            await back(broadcaster)
        await until(lambda: accepted(broadcaster, "warm", "up"))
        await watch.nothing_left()


async def test_a_subscribe_that_timed_out_leaves_nothing(own_broker: Broker) -> None:
    broadcaster = own_broker.broadcaster(linger=0.05, subscribe_timeout=0.2)
    async with broadcaster:
        await own_broker.kill()
        await lost(broadcaster)
        entering = [broadcaster.subscribe(name).__aenter__() for name in NAMES]
        outcomes = await asyncio.gather(*entering, return_exceptions=True)
        assert all(isinstance(one, BackendUnavailableError) for one in outcomes)
        await own_broker.restart()
        await back(broadcaster)
        engine = broadcaster._engine
        assert engine is not None
        await until(lambda: not engine.hub.channels)
        await until(lambda: _empty(own_broker))


async def test_disconnecting_leaves_nothing(own_broker: Broker, case: BackendCase) -> None:
    await own_broker.subscriptions()
    async with own_broker.broadcaster() as warm, reading(warm.subscribe("room")):
        await warm.publish("room", "up")
    await until(lambda: _empty(own_broker))
    watch = ProcessWatch()
    for turn in range(3):
        broadcaster = own_broker.broadcaster()
        await broadcaster.connect()
        async with AsyncExitStack() as stack:
            for number in range(50):
                await stack.enter_async_context(broadcaster.subscribe(NAMES[number % 5]))
            await broadcaster.publish(NAMES[0], "hello")
            if turn == 1:
                await own_broker.drop_clients()
            if turn == 2:
                await own_broker.kill()
            await broadcaster.disconnect()
        if turn == 2:
            await own_broker.restart()
        await watch.nothing_left()
        await until(lambda: _empty(own_broker))


async def test_a_failed_connect_leaves_nothing(own_broker: Broker) -> None:
    await own_broker.kill()
    watch = ProcessWatch()
    for _ in range(3):
        broadcaster = own_broker.broadcaster(connect_timeout=0.5)
        outcome = await asyncio.gather(broadcaster.connect(), return_exceptions=True)
        assert isinstance(outcome[0], BackendUnavailableError)
    await watch.nothing_left()


async def test_disconnecting_at_any_moment_of_a_loss(own_broker: Broker) -> None:
    """What is about to be cleaned up is not forgotten because everything ends just then."""
    for turn in range(24):
        broadcaster = own_broker.broadcaster()
        await broadcaster.connect()
        running = asyncio.all_tasks()
        dropping = asyncio.create_task(own_broker.drop_clients())
        async with asyncio.timeout(PATIENCE):
            while not (_any_done(running) or broadcaster.health().reconnects):  # noqa: ASYNC110
                await asyncio.sleep(0)
            for _ in range(turn % 8):
                await asyncio.sleep(0)
        await broadcaster.disconnect()
        await dropping
    gc.collect()  # whatever was left open complains, which is an error


def _any_done(tasks: set[asyncio.Task[Any]]) -> bool:
    return any(task.done() for task in tasks)
