"""Backends written for encode/broadcaster, when their connection fails."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

import pytest

from fastapi_broadcaster import BroadcastBackend, Broadcaster, Gap
from tests.brokers import QUICK
from tests.conformance.tools import take_items, until


class DriverError(Exception):
    """What a driver raises whose errors are its own, as those of redis-py are."""


class Queued(BroadcastBackend):
    """A queue; an exception that is put into it is what the driver raises."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []  # of `subscribe`, still to come
        self.queue: asyncio.Queue[Any] = asyncio.Queue()

    async def connect(self) -> None:
        self.queue = asyncio.Queue()

    async def disconnect(self) -> None:
        pass

    async def subscribe(self, channel: str) -> None:
        if self.failures:
            raise self.failures.pop()

    async def unsubscribe(self, channel: str) -> None:
        pass

    async def publish(self, channel: str, message: Any) -> None:
        self.queue.put_nowait(SimpleNamespace(channel=channel, message=message))

    async def next_published(self) -> Any:
        item = await self.queue.get()
        if isinstance(item, BaseException):
            raise item
        return item


@pytest.mark.parametrize(
    ("loss", "failures"),
    [
        (ConnectionError("lost"), [ConnectionError("not yet")] * 2),
        (DriverError("lost"), [DriverError("not yet")] * 2),
        (asyncio.CancelledError(), []),
    ],
    ids=["not yet when it subscribes again", "with errors of its own", "cancelled from within"],
)
async def test_subscribers_live_through_a_loss(
    loss: BaseException, failures: list[Exception]
) -> None:
    backend = Queued()
    async with (
        Broadcaster(backend=backend, backoff=QUICK) as broadcaster,
        broadcaster.subscribe("c") as subscriber,
    ):
        backend.failures = failures.copy()
        backend.queue.put_nowait(loss)
        await until(lambda: broadcaster.health().reconnects and not backend.failures)
        await broadcaster.publish("c", "x")
        gap, event = await take_items(subscriber, 2)
    assert gap == Gap("c", "reconnected")
    assert getattr(event, "message", None) == "x"


async def test_an_error_at_the_end_is_not_left_over(caplog: pytest.LogCaptureFixture) -> None:
    class Closed(Queued):
        async def next_published(self) -> Any:
            try:
                return await super().next_published()
            except asyncio.CancelledError:
                raise DriverError("closed while it waited") from None

    async with Broadcaster(backend=Closed()) as broadcaster, broadcaster.subscribe("c"):
        pass
    gc.collect()
    assert not caplog.records
