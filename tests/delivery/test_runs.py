"""The small form of benchmarks/delivery.py: real servers, real workers, real kills."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks._delivery.backends import BACKENDS, AnyServer
from benchmarks._delivery.checker import Verdict, check
from benchmarks._delivery.faults import Fault
from benchmarks._delivery.records import Record, Resumed
from benchmarks._delivery.run import Plan, run

FAULTS: tuple[Fault, ...] = ("broker", "clients", "workers")
CASES = [
    pytest.param(name, fault, id=f"{name}-{fault}")
    for name, backend in BACKENDS.items()
    for fault in FAULTS
    if backend.server or fault != "broker"
]
SLOW = ("kafka", "amqp", "amqp-stream")  # to start; the others are also harder to hit in mid-batch
PAUSES: dict[Fault, float] = {"broker": 0.0, "clients": 0.015, "workers": 0.015}


@pytest.fixture(scope="module")
def server_of() -> Iterator[Callable[[str], AnyServer | None]]:
    """The server of a backend, until that of another one is asked for."""
    with ExitStack() as stack:
        started: dict[str, AnyServer | None] = {}

        def find(name: str) -> AnyServer | None:
            if name not in started:
                stack.close()
                started.clear()
                make = BACKENDS[name].server
                started[name] = stack.enter_context(make()) if make else None
            return started[name]

        yield find


async def ran(
    name: str, fault: Fault, server: AnyServer | None, log: Path
) -> tuple[Record, Verdict]:
    """Run until a fault has hit something, which nearly each one does."""
    for seed in range(5):
        plan = Plan(
            backend=name,
            fault=fault,
            messages=2_000,
            kills=1 if fault == "workers" or name in SLOW else 3,
            drop_every=0.4,
            away=0.5,
            pause=PAUSES[fault],
            lines=2,
            publishers=12,
            seed=seed,
        )
        record = await run(plan, server, log)
        verdict = check(record, loses=plan.loses)
        if verdict.objections or hit(record):
            return record, verdict
    raise AssertionError("no fault of five runs has hit anything")


def hit(record: Record) -> bool:
    """Whether a kill was in mid-batch, or a client had to come back.

    Kafka's producer may well finish a batch after the broker's restart.
    """
    if record.about["fault"] != "broker":
        return any(isinstance(item, Resumed) for one in record.readers for item in one.items)
    sent = [publish for publish in record.publishes if publish.outcome != "refused"]
    return any(one.begun < down < one.ended for one in sent for down, _ in record.outages)


@pytest.mark.parametrize(("name", "fault"), CASES)
async def test_delivery(
    name: str, fault: Fault, server_of: Callable[[str], AnyServer | None], tmp_path: Path
) -> None:
    server = await asyncio.to_thread(server_of, name)
    record, verdict = await ran(name, fault, server, tmp_path / "workers.log")
    assert verdict.objections == []
    assert verdict.acknowledged >= 2_000
    assert verdict.needless == 0
    assert verdict.announced == verdict.losses
    if not BACKENDS[name].log:
        assert {place.reasons[0] for place in verdict.places} == {"reconnected"}
    elif (name, fault) == ("memory", "workers"):
        assert {place.reader for place in verdict.places} == {one.name for one in record.readers}
        assert {place.reasons for place in verdict.places} == {("reset",)}
    else:
        assert (verdict.once, verdict.gaps) == (verdict.acknowledged, 0)
