"""10,000 channels in one process: a message on one of them costs about what it did with 100."""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import AsyncExitStack

import pytest

from fastapi_broadcaster import Subscriber
from tests.backends import BackendCase, rows
from tests.brokers import Broker
from tests.conformance.tools import PATIENCE

pytestmark = pytest.mark.alone

FEW, MANY, PROBES = 100, 10_000, 1_000
WITHIN_60_MS = {"redis-stream"}  # ten connections read instead of one
MEASURED = {"memory", "redis", "redis-stream", "postgres", "postgres-stream"}


@rows(lambda case: case.id in MEASURED)
async def test_10_000_channels_are_about_as_quick_as_100(case: BackendCase, broker: Broker) -> None:
    subscribers: list[Subscriber[str]] = []
    async with (
        broker.broadcaster(subscribe_timeout=60) as broadcaster,
        AsyncExitStack() as stack,
    ):

        async def grow(count: int) -> None:
            names = [f"many.{number}" for number in range(len(subscribers), count)]
            entering = (stack.enter_async_context(broadcaster.subscribe(name)) for name in names)
            subscribers.extend(await asyncio.gather(*entering))

        async def median_delay() -> float:
            delays = []
            for number in range(PROBES):
                subscriber = subscribers[number * 7_919 % len(subscribers)]
                [name] = subscriber.channels
                begun = time.perf_counter()
                await broadcaster.publish(name, "probe")
                async with asyncio.timeout(PATIENCE):
                    await subscriber.get()
                delays.append(time.perf_counter() - begun)
            return statistics.median(delays)

        await grow(FEW)
        few = await median_delay()
        await grow(MANY)
        many = await median_delay()
        assert many < (0.06 if case.id in WITHIN_60_MS else 3 * few)
