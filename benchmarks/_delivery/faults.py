"""What goes wrong during a run."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Literal

from benchmarks._delivery.backends import AnyServer
from benchmarks._delivery.clients import Client
from benchmarks._delivery.publishers import Publishers
from benchmarks._delivery.records import Outage
from benchmarks._delivery.workers import Worker

Fault = Literal["broker", "clients", "workers"]


def moments(messages: int, count: int, chance: random.Random) -> list[int]:
    """After how many acknowledged messages to kill: one random number in each equal part."""
    part = messages / count
    return [int(part * (turn + chance.uniform(0.1, 0.9))) for turn in range(count)]


async def kill_broker(
    server: AnyServer,
    publishers: Publishers,
    when: Sequence[int],
    away: float,
    chance: random.Random,
) -> list[Outage]:
    """`kill -9` in mid-batch, and start it again after up to `away` seconds."""
    outages: list[Outage] = []
    for count in when:
        await publishers.reached(count)
        await asyncio.sleep(chance.uniform(0, 0.02))
        down = time.monotonic()
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(chance.uniform(0, away))
        await asyncio.to_thread(server.start)
        outages.append((down, time.monotonic()))
    return outages


async def kill_workers(
    workers: Sequence[Worker], publishers: Publishers, when: Sequence[int], chance: random.Random
) -> list[Outage]:
    """`kill -9` one of them, whose clients go to another, and start it again."""
    outages: list[Outage] = []
    for count in when:
        await publishers.reached(count)
        await asyncio.sleep(chance.uniform(0, 0.02))
        worker = chance.choice(workers)
        down = time.monotonic()
        await asyncio.to_thread(worker.kill)
        await asyncio.sleep(chance.uniform(0, 0.5))
        worker.spawn()
        await worker.answer()
        outages.append((down, time.monotonic()))
    return outages


async def drop_clients(
    clients: Sequence[Client], publishers: Publishers, every: float
) -> list[Outage]:
    """Drop each client every so many seconds, one after the other, until all is published."""
    while not publishers.finished:
        for client in clients:
            await asyncio.sleep(every / len(clients))
            client.drop()
    return []
