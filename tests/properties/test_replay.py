"""History, then live, without a seam: what a reader gets is the log, or a gap where it differs."""

from typing import Any

import pytest

from fastapi_broadcaster import Gap, HistoryBackend, _engine
from fastapi_broadcaster._buffer import OVERFLOWS, Overflow
from fastapi_broadcaster.history import Replay
from tests.brokers import MemoryBroker
from tests.properties.lag import Lag
from tests.properties.replay_world import Case, Ground, World, cases
from tests.properties.trial import fails, holds
from tests.properties.virtual_time import run


async def play(case: Case) -> None:
    broker = MemoryBroker()
    broadcaster = broker.broadcaster(log_size=case.kept, linger=0.01)
    assert isinstance(broadcaster.backend, HistoryBackend)
    lag = Lag(broadcaster.backend, pause=0)
    async with broadcaster:
        await World(case, Ground(broadcaster, lag, broker.drop_clients, ring=case.kept)).play()


def check(case: Case) -> None:
    run(play(case))


def test_what_is_read_is_the_log_or_a_gap_stands_where_it_differs() -> None:
    holds(check, cases("catch_up"), examples=1_000)


@pytest.mark.parametrize("overflow", [one for one in OVERFLOWS if one != "catch_up"])
def test_the_same_with_other_ways_to_overflow(overflow: Overflow) -> None:
    holds(check, cases(overflow), examples=400)


class LiveTooLate(Replay):
    """Wrong: reads until a short page, and only then goes live."""

    async def _run(self, read: Any, version: int) -> None:
        begin_round = self._inbox.begin_round
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self._inbox, "begin_round", lambda: None)
            found = [await read(name) for name in self._names]
        begin_round()
        items = [item for page, _ in found for item in page]
        self._inbox.end_round(items, more=any(more for _, more in found))


class TellingTooMuch(Replay):
    """Wrong: takes every return to the log for a loss."""

    async def round(self) -> None:
        await super().round()
        self._inbox.page.appendleft(Gap(self._names[0], "slow"))


class CountingTwice(Replay):
    """Wrong: counts as missing what fell out of the buffer, though the log gave it."""

    async def _run(self, read: Any, version: int) -> None:
        self._inbox._replayed = dict
        await super()._run(read, version)


class CoveringTooMuch(Replay):
    """Wrong: ids cover the history of a channel of which nothing was handed on yet."""

    async def start(self, history: Any, after: str | None) -> None:
        await super().start(history, after)
        self._targets.pending = set()


@pytest.mark.parametrize(
    ("wrong", "overflow"),
    [
        (LiveTooLate, "catch_up"),
        (TellingTooMuch, "catch_up"),
        (CoveringTooMuch, "catch_up"),
        (CountingTwice, "drop_oldest"),
    ],
)
def test_the_property_finds_wrong_replays(
    wrong: type[Replay], overflow: Overflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_engine, "Replay", wrong)
    fails(check, cases(overflow))
