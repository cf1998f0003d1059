"""One run: servers, workers, publishers, clients, and a fault."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks._delivery.backends import BACKENDS, AnyServer
from benchmarks._delivery.clients import Client
from benchmarks._delivery.faults import Fault, drop_clients, kill_broker, kill_workers, moments
from benchmarks._delivery.publishers import Publishers
from benchmarks._delivery.records import LAST, Record
from benchmarks._delivery.workers import Worker, workers

_LATEST = 120.0  # seconds until everybody must have everything, when all is well again


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run. `drop_every`, `away` (of a broker, at most) and `pause` are seconds."""

    backend: str
    fault: Fault
    messages: int = 50_000
    kills: int = 10
    drop_every: float = 2.0
    away: float = 2.0
    pause: float = 0.01
    """Of each publisher, between two messages."""
    lines: int = 4
    publishers: int = 6
    """For each line."""
    clients: int = 3
    """For each line."""
    seed: int = 0

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Plan:
        """The plan of a record."""
        return cls(**{field.name: about[field.name] for field in fields(cls)})

    @property
    def loses(self) -> str | None:
        """The reason of gaps, where messages may be lost; see `check`."""
        if not BACKENDS[self.backend].log:
            return "reconnected"
        return "reset" if (self.backend, self.fault) == ("memory", "workers") else None


async def run(plan: Plan, server: AnyServer | None, log: Path) -> Record:
    """Return when every client has all that it will ever get; workers write to `log`."""
    url = BACKENDS[plan.backend].url(server)
    async with (
        workers(url, 2 if server else 1, log) as serving,
        asyncio.TaskGroup() as group,
    ):
        record, following = await _run(plan, server, serving, group)
        for task in following:
            task.cancel()
    return record


async def _run(
    plan: Plan, server: AnyServer | None, serving: Sequence[Worker], group: asyncio.TaskGroup
) -> tuple[Record, list[asyncio.Task[None]]]:
    chance = random.Random(plan.seed)
    lines = [f"{plan.fault}-{plan.seed}-{line}" for line in range(plan.lines)]
    clients = [
        Client(f"{line}/{number}", line, serving, seed=chance.randrange(2**32))
        for line in lines
        for number in range(plan.clients)
    ]
    publishers = Publishers(
        serving, wanted=plan.messages, pause=plan.pause, seed=chance.randrange(2**32)
    )
    following = [group.create_task(client.run()) for client in clients]
    await _until(lambda: all(client.id for client in clients))
    begun = time.monotonic()
    when = moments(plan.messages, plan.kills, chance)
    if plan.fault == "clients":
        fault = drop_clients(clients, publishers, plan.drop_every)
    elif plan.fault == "workers":
        fault = kill_workers(serving, publishers, when, chance)
    else:
        assert server is not None, f"{plan.backend} has no broker"
        fault = kill_broker(server, publishers, when, plan.away, chance)
    breaking = group.create_task(fault)
    async with asyncio.TaskGroup() as speaking:
        for line in lines:
            for number in range(plan.publishers):
                speaking.create_task(publishers.run(line, number))
    away = await breaking
    seconds = time.monotonic() - begun
    await _finish(lines, clients, publishers)
    drops = sum(client.drops for client in clients)
    about = {**asdict(plan), "seconds": round(seconds, 1), "drops": drops}
    readers = [client.reader for client in clients]
    outages, restarts = ([], away) if plan.fault == "workers" else (away, [])
    return Record(about, outages, restarts, publishers.done, readers), following


async def _finish(lines: Sequence[str], clients: Sequence[Client], publishers: Publishers) -> None:
    """Publish a last message on each line until everybody has one: a broker may lose some."""
    numbers = dict.fromkeys(lines, 0)
    async with asyncio.timeout(_LATEST):
        while not all(client.finished for client in clients):
            for line in lines:
                numbers[line] = await publishers.publish(line, LAST, numbers[line], 1)
            await asyncio.sleep(0.5)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_LATEST):
        while not condition():  # noqa: ASYNC110  # the parts need not know of it
            await asyncio.sleep(0.02)
