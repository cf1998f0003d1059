"""Backends written for encode/broadcaster, when their connection fails."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from fastapi_broadcaster import BroadcastBackend, Broadcaster, Gap
from tests.brokers import QUICK
from tests.conformance.tools import take_items, until


class Queued(BroadcastBackend):
    """A queue; an exception that is put into it is what the driver raises."""

    def __init__(self) -> None:
        self.failures = 0  # of `subscribe`, still to come
        self.queue: asyncio.Queue[Any] = asyncio.Queue()

    async def connect(self) -> None:
        self.queue = asyncio.Queue()

    async def disconnect(self) -> None:
        pass

    async def subscribe(self, channel: str) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("not yet")

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
    [(ConnectionError("lost"), 2), (asyncio.CancelledError(), 0)],
    ids=["not yet when it subscribes again", "cancelled from within"],
)
async def test_subscribers_live_through_a_loss(loss: BaseException, failures: int) -> None:
    backend = Queued()
    async with (
        Broadcaster(backend=backend, backoff=QUICK) as broadcaster,
        broadcaster.subscribe("c") as subscriber,
    ):
        backend.failures = failures
        backend.queue.put_nowait(loss)
        await until(lambda: broadcaster.health().reconnects and not backend.failures)
        await broadcaster.publish("c", "x")
        gap, event = await take_items(subscriber, 2)
    assert gap == Gap("c", "reconnected")
    assert getattr(event, "message", None) == "x"
