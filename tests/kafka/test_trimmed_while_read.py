"""A page whose records go between the look at where the log begins and the reading of them."""

from __future__ import annotations

import pytest

from fastapi_broadcaster import Broadcaster, HistoryLostError
from fastapi_broadcaster.backends._kafka_pages import Pages
from servers import Kafka
from tests.conformance.tools import publish_all
from tests.kafka.broker import delete_records

TEN = [str(number) for number in range(10)]


@pytest.fixture
def trimmed(monkeypatch: pytest.MonkeyPatch, server: Kafka, name: str) -> None:
    """The first five go in front of the first read."""
    span = Pages.span
    trimmed = False

    async def trim_first(self: Pages, *arguments: object, **options: object) -> object:
        nonlocal trimmed
        if not trimmed:
            trimmed = True
            await delete_records(server.port, name, 5)
        return await span(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Pages, "span", trim_first)


async def test_who_goes_on_behind_them_is_told(
    broadcaster: Broadcaster, name: str, trimmed: None
) -> None:
    ids = [(await broadcaster.publish(name, message)).id for message in TEN]
    with pytest.raises(HistoryLostError) as lost:
        await broadcaster.channel(name).page(after=ids[2])
    assert lost.value.reason == "expired"


async def test_who_wants_the_newest_gets_what_is_left(
    broadcaster: Broadcaster, name: str, trimmed: None
) -> None:
    await publish_all(broadcaster, name, TEN)
    page = await broadcaster.channel(name).page()
    assert [event.message for event in page.items] == TEN[5:]
