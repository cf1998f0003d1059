"""Fixtures of the backend table, and the matrix promise x backend at the end of the run."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from fastapi_broadcaster import Broadcaster, UnsupportedError
from tests.backends import CASES, BackendCase, row_in
from tests.brokers import Broker

PROMISES = {
    1: "acknowledged or raised",
    2: "live when it returns",
    3: "in order, once, or told",
    4: "history, then live",
    5: "a slow reader hurts nobody",
    6: "the broker may die",
    7: "shutdown ends streams",
    8: "poisoned messages",
    9: "nothing leaks",
}
_cells: dict[tuple[int, str], Counter[str]] = defaultdict(Counter)
_numbers = itertools.count(1)

# a machine that stands still for a while is no failure of what a property is about
settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")


@pytest.fixture(params=CASES, ids=[case.id for case in CASES])
def case(request: pytest.FixtureRequest) -> BackendCase:
    """A row of the table."""
    return request.param


@pytest.fixture(scope="session")
def shared_brokers() -> Iterator[Callable[[BackendCase], Broker]]:
    """One broker per backend for all tests that do not break it, started when first asked for."""
    with ExitStack() as stack:
        started: dict[str, Broker] = {}

        def broker_of(case: BackendCase) -> Broker:
            if case.id not in started:
                started[case.id] = stack.enter_context(case.broker())
            return started[case.id]

        yield broker_of


@pytest.fixture
def broker(case: BackendCase, shared_brokers: Callable[[BackendCase], Broker]) -> Broker:
    """A broker that others use too: break nothing."""
    return shared_brokers(case)


@pytest.fixture
def own_broker(case: BackendCase) -> Iterator[Broker]:
    """A broker of the test's own, to be killed, frozen and looked into."""
    with case.broker() as broker:
        yield broker


@pytest.fixture
async def broadcaster(broker: Broker) -> AsyncIterator[Broadcaster]:
    """Connected, with the defaults, but for more patience with a machine that stands still."""
    async with broker.broadcaster(
        connect_timeout=30.0, subscribe_timeout=30.0, publish_timeout=30.0
    ) as broadcaster:
        yield broadcaster


@pytest.fixture
def name() -> str:
    """A channel that no other test uses."""
    return f"conformance.{next(_numbers)}"


class Refusal:
    """Asserts that a backend refuses what it cannot do."""

    def __init__(self, case: BackendCase, request: pytest.FixtureRequest) -> None:
        self._case = case
        self._request = request

    @contextmanager
    def __call__(self, *, naming: str = " ") -> Generator[None]:
        """Assert an `UnsupportedError`, and enter "unsupported" into the matrix."""
        with pytest.raises(UnsupportedError, match=re.escape(naming)):
            yield
        self._request.node.user_properties.append(("conformance", "unsupported"))

    def log(self, broadcaster: Broadcaster, name: str, **options: Any) -> bool:
        """True on a backend without a log, which has refused to subscribe with the options."""
        if not self._case.log:
            with self(naming=self._case.instead):
                broadcaster.subscribe(name, **options)
        return not self._case.log

    def pattern(self, broadcaster: Broadcaster, pattern: Any) -> bool:
        """True on a backend without patterns, which has refused to subscribe to this one."""
        if not self._case.patterns:
            with self(naming="pattern"):
                broadcaster.subscribe(pattern=pattern)
        return not self._case.patterns


@pytest.fixture
def refused(case: BackendCase, request: pytest.FixtureRequest) -> Refusal:
    return Refusal(case, request)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Enter a test of a promise into the matrix; a skipped one counts as failed."""
    found = re.search(r"conformance/test_promise_(\d)\w*\.py::\w+\[(.+)\]$", report.nodeid)
    if found is None:
        return
    cell = _cells[int(found[1]), row_in(found[2]) or found[2]]
    if report.outcome != "passed":
        cell["failed"] += 1
    elif report.when == "call":
        refused = ("conformance", "unsupported") in report.user_properties
        cell["unsupported" if refused else "ran"] += 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print promise x backend."""
    if not _cells:
        return
    terminalreporter.section("promises x backends")
    columns = [["", *(f"{number} {promise}" for number, promise in PROMISES.items())]]
    for case in CASES:
        columns.append([case.id, *(_cell(_cells[number, case.id]) for number in PROMISES)])
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        cells = (f"{text:<{width}}" for text, width in zip(row, widths, strict=True))
        terminalreporter.write_line("  ".join(cells).rstrip())


def _cell(outcomes: Counter[str]) -> str:
    words = ("ran", "unsupported", "failed")
    return ", ".join(f"{word} {outcomes[word]}" for word in words if outcomes[word]) or "-"
