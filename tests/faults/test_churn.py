"""Readers that come and go while the broker is killed: nothing is left of them."""

from __future__ import annotations

import asyncio
from random import Random

from fastapi_broadcaster import Broadcaster
from tests.brokers import Broker
from tests.conformance.test_promise_9_no_leaks import Watch
from tests.conformance.tools import back, lost, until

ROUNDS, AT_ONCE = 10, 200
KILLED_IN = (2, 5, 8)
NAMES = [f"room.{number}" for number in range(50)]
STAY = 0.05  # seconds, at most, before a reader comes and before it goes


async def test_2000_cycles_and_3_kills(own_broker: Broker) -> None:
    """Over 50 names, 200 at a time; each reader is live in the end, whatever it takes."""
    dice = Random(7)
    async with own_broker.broadcaster(
        linger=0.0, subscribe_timeout=90, publish_timeout=60
    ) as broadcaster:
        await _touch(broadcaster)
        await until(lambda: _is_idle(own_broker))
        watch = Watch(own_broker, broadcaster)
        for turn in range(ROUNDS):
            visits = [
                _visit(broadcaster, NAMES[number % len(NAMES)], dice) for number in range(AT_ONCE)
            ]
            fault = [_outage(own_broker, broadcaster, dice)] if turn in KILLED_IN else []
            async with asyncio.timeout(100):
                await asyncio.gather(*visits, *fault)
        assert broadcaster.health().reconnects >= len(KILLED_IN)
        await _touch(broadcaster)
        await watch.nothing_left()


async def _is_idle(broker: Broker) -> bool:
    return not await broker.subscriptions()


async def _touch(broadcaster: Broadcaster) -> None:
    """Use each name once: what is kept for it, and for the next one, is there from then on."""
    async with broadcaster.subscribe(NAMES):
        for name in NAMES:
            await broadcaster.publish(name, "hello")


async def _visit(broadcaster: Broadcaster, name: str, dice: Random) -> None:
    await asyncio.sleep(dice.uniform(0, STAY))
    async with broadcaster.subscribe(name):
        await asyncio.sleep(dice.uniform(0, STAY))


async def _outage(broker: Broker, broadcaster: Broadcaster, dice: Random) -> None:
    await asyncio.sleep(dice.uniform(0, STAY))
    await broker.kill()
    await lost(broadcaster)
    await broker.restart()
    await back(broadcaster)
