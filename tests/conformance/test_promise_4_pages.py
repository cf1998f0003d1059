"""Promise 4 once more: pages, and what is refused."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fastapi_broadcaster import Broadcaster, Event, HistoryLostError
from tests.backends import BackendCase
from tests.brokers import Broker
from tests.conformance.test_promise_4_history import BEGINNINGS, TEN
from tests.conformance.tools import publish_all
from tests.conftest import Refusal


async def test_history_with_a_pattern(
    refused: Refusal, broadcaster: Broadcaster, name: str
) -> None:
    for options in BEGINNINGS:
        with refused():
            broadcaster.subscribe(pattern=f"{name}.*", **options)


async def test_a_log_is_known_before_connecting(case: BackendCase, broker: Broker) -> None:
    assert broker.broadcaster().has_history == case.log


async def test_history_names_the_way_out(
    refused: Refusal, case: BackendCase, broadcaster: Broadcaster, name: str
) -> None:
    if case.log:
        async with broadcaster.subscribe(name, history=1):
            return
    for options in (
        {"history": 0},
        {"history": 5},
        {"history": "all"},
        {"history": timedelta(minutes=1)},
        {"latest": True},
        {"overflow": "catch_up"},
    ):
        assert refused.log(broadcaster, name, **options)


async def test_paging_both_ways(
    refused: Refusal, case: BackendCase, broadcaster: Broadcaster, name: str
) -> None:
    channel = broadcaster.channel(name)
    if not case.log:
        with refused(naming=case.instead):
            await channel.page()
        return
    await publish_all(broadcaster, name, TEN)
    page = await channel.page(limit=4)
    assert [event.message for event in page.items] == ["6", "7", "8", "9"]
    assert page.items[0] == Event(name, "6")
    assert page.next is None
    backwards = []
    while True:
        backwards = [event.message for event in page.items] + backwards
        if page.previous is None:
            break
        page = await channel.page(limit=4, before=page.previous)
    assert backwards == TEN
    forwards = [event.message for event in page.items]
    while page.next is not None:
        page = await channel.page(limit=4, after=page.next)
        forwards += [event.message for event in page.items]
    assert forwards == TEN


async def test_paging_errors(
    refused: Refusal, case: BackendCase, broadcaster: Broadcaster, name: str
) -> None:
    channel = broadcaster.channel(name)
    if not case.log:
        with refused(naming=case.instead):
            await channel.page(limit=1)
        return
    assert (await channel.page()).items == []
    with pytest.raises(HistoryLostError):
        await channel.page(after="nonsense")
    for limit in (0, 1_001):
        with pytest.raises(ValueError, match="limit"):
            await channel.page(limit=limit)
