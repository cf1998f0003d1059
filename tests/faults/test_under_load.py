"""Kills, a freeze and a long outage while publishers and subscribers run."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from fastapi_broadcaster import Backoff, Broadcaster, Health
from tests.backends import BackendCase
from tests.brokers import Broker
from tests.conformance.tools import Reader, published, reading, until
from tests.faults.probe import probing
from tests.faults.traffic import Publisher, heard_all, more, traffic, untold

pytestmark = pytest.mark.alone

NAMES = ["a", "b"]
HICCUP = 1.0  # seconds in which a broker may be frozen without being given up
KILLED, FROZEN, BACK = 2.0, 10.0, 5.0  # seconds in which the readiness route must tell


class Unlucky(Backoff):
    """The defaults, with dice that always show the longest pause."""

    def pause(self, attempt: int) -> float:
        return min(self.cap, self.first * 2**attempt)


async def test_faults_under_load(case: BackendCase, own_broker: Broker) -> None:
    """A hiccup, a kill, a freeze, and an outage longer than the longest pause between two attempts.

    A log loses nothing, doubles nothing and tells no gap. Without a log each loss has one gap,
    and all that is missing lies there. Hooks and the readiness route tell each loss once.
    """
    lost: list[Health] = []
    restored: list[Health] = []
    options: dict[str, Any] = {"publish_timeout": 1.0, "subscribe_timeout": 29.0, "linger": 0.0}
    options |= {} if case.processes else {"log_size": 20_000}
    here = own_broker.broadcaster(
        **options, backoff=Unlucky(), on_disconnect=lost.append, on_reconnect=restored.append
    )
    there = own_broker.broadcaster(**options) if case.shared else here
    publishers = [
        Publisher(f"{place}.{name}.{number}", broadcaster, name)
        for place, broadcaster in [("here", here), ("there", there)]
        for name in NAMES
        for number in range(3)  # whose messages leave together
    ]
    async with AsyncExitStack() as stack:
        probe = await stack.enter_async_context(probing(here))
        if there is not here:
            await stack.enter_async_context(there)
        first = await published(here, "a", "the first")
        readers = [
            await stack.enter_async_context(reading(one.subscribe(NAMES))) for one in (here, there)
        ]
        leaving = [here.subscribe(f"left.{turn}") for turn in range(2)]
        for one in leaving:
            await one.__aenter__()
        crossings = [Crossing(case, here, publishers, first) for _ in leaving]
        sleeper = here.subscribe(NAMES, buffer_size=16)
        sleeping = await stack.enter_async_context(sleeper)
        async with traffic(publishers):
            if case.processes:
                await own_broker.pause()
                await asyncio.sleep(HICCUP)
                await own_broker.resume()
                await more(publishers)
                assert here.health().reconnects == 0

            await own_broker.kill()
            await probe.turns(503, within=KILLED)
            await own_broker.restart()
            await probe.turns(200, within=BACK)
            await more(publishers)

            await own_broker.pause()
            await leaving[0].__aexit__(None, None, None)
            crossings[0].begin(stack)
            await probe.turns(503, within=FROZEN)
            await own_broker.resume()
            await probe.turns(200, within=BACK)
            await crossings[0].returned()
            await more(publishers)

            await own_broker.kill()
            await probe.turns(503, within=KILLED)
            await leaving[1].__aexit__(None, None, None)
            crossings[1].begin(stack)
            await asyncio.sleep(Backoff().cap + 0.5)
            await own_broker.restart()
            await probe.turns(200, within=BACK)
            await crossings[1].returned()
            await more(publishers)
        for reader in readers:
            await heard_all(reader, publishers)
        for crossing in crossings:
            await crossing.is_right()
        assert crossings[1].gaps == 0  # they came when all was lost already
        if case.log:
            waking = Reader(sleeping)
            await heard_all(waking, publishers)
            waking.task.cancel()
            readers.append(waking)
        await until(lambda: only_names(own_broker))
        told = here.health().reconnects
    for reader in readers:
        assert not any(untold(reader, publishers).values())
        assert not case.log or reader.gaps == []
    assert case.log or len(readers[0].gaps) == told * len(NAMES)
    assert len(lost) == len(restored) == told
    assert {health.state for health in lost} == {"reconnecting"}
    assert {health.state for health in restored} == {"connected"}


async def only_names(broker: Broker) -> bool:
    return await broker.subscriptions() == {*NAMES}


class Crossing:
    """Subscribes while the broker is away, in all the ways that there are."""

    def __init__(
        self, case: BackendCase, here: Broadcaster, publishers: list[Publisher], first: str | None
    ) -> None:
        self._publishers = publishers
        self._log = case.log
        self._live = [here.subscribe(NAMES)]
        self._replays = []
        if case.log:
            self._replays = [
                here.subscribe(NAMES, history="all"),
                here.subscribe(NAMES, history="all", buffer_size=16),
                here.subscribe("a", after=first),
            ]
        self._begun: list[asyncio.Task[tuple[Reader, dict[str, int]]]] = []

    def begin(self, stack: AsyncExitStack) -> None:
        for subscription in [*self._live, *self._replays]:
            self._begun.append(asyncio.create_task(self._enter(subscription, stack)))

    async def _enter(
        self, subscription: Any, stack: AsyncExitStack
    ) -> tuple[Reader, dict[str, int]]:
        reader = await stack.enter_async_context(reading(subscription))
        return reader, {one.name: one.number for one in self._publishers}

    async def returned(self) -> None:
        await asyncio.gather(*self._begun)

    @property
    def gaps(self) -> int:
        return sum(len(task.result()[0].gaps) for task in self._begun)

    async def is_right(self) -> None:
        """Live from where it returned, or told; the log from its beginning, without a gap."""
        for task in self._begun:
            reader, marks = task.result()
            heard = [one for one in self._publishers if one.channel in reader.subscriber.channels]
            await heard_all(reader, heard)
            replay = task in self._begun[len(self._live) :]
            assert not (self._log and reader.gaps)
            for name, numbers in untold(reader, heard).items():
                assert not [one for one in numbers if replay or one > marks[name]]
