"""The same property as in memory, on every log that lives in a server, with fewer cases."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import strategies as st

from fastapi_broadcaster import Broadcaster, HistoryBackend, _engine
from fastapi_broadcaster._buffer import OVERFLOWS
from tests.backends import BackendCase, rows
from tests.brokers import Broker
from tests.properties.lag import Lag
from tests.properties.replay_world import Case, Ground, World, cases
from tests.properties.test_replay import LiveTooLate
from tests.properties.trial import finds, holds
from tests.trimming import trim, way_to_trim

BY_ENTRY = ("redis-stream", "amqp-stream")  # how a log proves that nothing is missing
on_servers = rows(lambda case: case.log and case.processes)
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def broker_of() -> Iterator[Callable[[BackendCase], Broker]]:
    """One server per backend for this module, which drops its connections now and then."""
    started: dict[str, Broker] = {}
    with ExitStack() as stack:

        def start(case: BackendCase) -> Broker:
            if case.id not in started:
                started[case.id] = stack.enter_context(case.broker())
            return started[case.id]

        yield start


@contextmanager
def checking(
    case: BackendCase, broker: Broker, *, patience: float = 20.0, pause: float = 0.02
) -> Iterator[Callable[[Case], None]]:
    """Connects two broadcasters once, and tries every case on channels of its own.

    A page is held back for up to `pause` seconds, in which messages come.
    """

    async def connect() -> tuple[Broadcaster, Broadcaster, Lag]:
        listening, publishing = (
            broker.broadcaster(linger=0.01, publish_timeout=60.0, subscribe_timeout=60.0)
            for _ in range(2)
        )
        assert isinstance(listening.backend, HistoryBackend)
        lag = Lag(listening.backend, pause=pause)
        for broadcaster in (listening, publishing):
            await stack.enter_async_context(broadcaster)
        return listening, publishing, lag

    stack = AsyncExitStack()
    with asyncio.Runner() as runner:
        listening, publishing, lag = runner.run(connect())
        way = way_to_trim(broker)

        def check(one: Case) -> None:
            at = next(numbers)
            ground = Ground(
                broadcaster=listening,
                lag=lag,
                drop=broker.drop_clients,
                trim=partial(trim, way) if way is not None else None,
                publisher=publishing,
                names=(f"p{at}.a", f"p{at}.b"),
                by_entry=case.id in BY_ENTRY,
                patience=patience,
            )
            runner.run(World(one, ground).play())

        try:
            yield check
        finally:
            runner.run(stack.aclose())


@on_servers
def test_what_is_read_is_the_log_or_a_gap_stands_where_it_differs(
    case: BackendCase, broker_of: Callable[[BackendCase], Broker]
) -> None:
    with checking(case, broker_of(case)) as check:
        holds(check, cases(*OVERFLOWS, longest=80), examples=20, shrink=False)


@on_servers
def test_the_property_finds_the_replay_that_goes_live_too_late(
    case: BackendCase,
    broker_of: Callable[[BackendCase], Broker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Among readers who come while others publish; it does not survive a lost connection."""
    monkeypatch.setattr(_engine, "Replay", LiveTooLate)
    one = Case("L" * 5 + "PPSPSPSP" + "PPY" * 30, seed=0, channels=1, kept=100, buffer_size=5)
    seams = st.integers(0, 2**32).map(lambda seed: replace(one, seed=seed))
    with checking(case, broker_of(case), patience=2.0, pause=0.05) as check:
        finds(check, seams, examples=200)
