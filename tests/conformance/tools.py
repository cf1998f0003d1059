"""What the promise tests share: waiting with a deadline, readers, barriers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi_broadcaster import (
    BackendUnavailableError,
    Broadcaster,
    ChannelNameError,
    Event,
    Gap,
    Subscriber,
    Subscription,
)

PATIENCE = 30.0  # seconds until a test gives up


async def until(condition: Callable[[], object], *, patience: float = PATIENCE) -> None:
    """Wait until the condition is true, which may be a coroutine function."""
    async with asyncio.timeout(patience):
        while True:
            found = condition()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return
            await asyncio.sleep(0.01)


def takes(broadcaster: Broadcaster, name: str) -> bool:
    """Whether a channel may be called so on this backend."""
    try:
        broadcaster.check_name(name)
    except ChannelNameError:
        return False
    return True


async def take(subscriber: Subscriber[Any], count: int) -> list[Any]:
    """The next messages."""
    async with asyncio.timeout(PATIENCE):
        return [(await subscriber.get()).message for _ in range(count)]


async def take_items(subscriber: Subscriber[Any], count: int) -> list[Event[Any] | Gap]:
    """The next events and gaps."""
    stream = subscriber.stream()
    async with asyncio.timeout(PATIENCE):
        return [await anext(stream) for _ in range(count)]


async def take_until(subscriber: Subscriber[Any], last: object) -> list[Any]:
    """Messages, and gaps as they are, up to that message and without it."""
    taken: list[Any] = []
    async with asyncio.timeout(PATIENCE):
        async for item in subscriber.stream():
            if isinstance(item, Event) and item.message == last:
                return taken
            taken.append(item if isinstance(item, Gap) else item.message)
    raise AssertionError(f"the stream ended before {last!r}: {taken}")


class Reader:
    """Reads a subscriber in a task of its own."""

    def __init__(self, subscriber: Subscriber[Any]) -> None:
        self.subscriber = subscriber
        self.items: list[Event[Any] | Gap] = []
        self.task = asyncio.create_task(self._run(), name="test-reader")

    async def _run(self) -> None:
        async for item in self.subscriber.stream():
            self.items.append(item)

    @property
    def messages(self) -> list[Any]:
        return [item.message for item in self.items if isinstance(item, Event)]

    @property
    def gaps(self) -> list[Gap]:
        return [item for item in self.items if isinstance(item, Gap)]

    async def until(self, message: object) -> None:
        await until(lambda: self.task.done() or message in self.messages)
        assert message in self.messages

    async def ended(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.task


@asynccontextmanager
async def reading(subscription: Subscription[Any]) -> AsyncIterator[Reader]:
    """Subscribe, and read until the end of the block."""
    async with subscription as subscriber:
        reader = Reader(subscriber)
        try:
            yield reader
        finally:
            reader.task.cancel()
            await asyncio.wait([reader.task])


class Barrier:
    """Holds the calls of one method of a backend, while it is closed."""

    def __init__(self, broadcaster: Broadcaster, method: str, *, after: bool = False) -> None:
        """Must be made before connecting; with `after`, calls are held when they have run."""
        self.held = 0
        self.calls = 0
        self._open = asyncio.Event()
        self._open.set()
        self._call = getattr(broadcaster.backend, method)
        self._after = after
        setattr(broadcaster.backend, method, self)

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        if self._after:
            result = await self._call(*arguments)
            await self._wait()
            return result
        await self._wait()
        return await self._call(*arguments)

    async def _wait(self) -> None:
        self.held += 1
        try:
            await self._open.wait()
        finally:
            self.held -= 1


async def publish_all(broadcaster: Broadcaster, channel: str, messages: list[str]) -> None:
    """One after the other, by successive awaits."""
    for message in messages:
        await broadcaster.publish(channel, message)


async def accepted(broadcaster: Broadcaster, channel: str, message: str) -> bool:
    """Publish; False if nothing has left, because the broker was not reached in time."""
    try:
        await broadcaster.publish(channel, message)
    except BackendUnavailableError as error:
        if error.maybe_published:
            raise
        return False
    return True


async def published(broadcaster: Broadcaster, channel: str, message: str) -> str | None:
    """Publish, and return the id of the event: not every broker tells it to a publisher."""
    receipt = await broadcaster.publish(channel, message)
    if receipt.id is None and broadcaster.has_history:
        page = await broadcaster.channel(channel).page(limit=1)
        return page.items[-1].id
    return receipt.id


async def lost(broadcaster: Broadcaster) -> None:
    """Wait until the broadcaster has noticed that its broker is away."""
    await until(lambda: broadcaster.health().state == "reconnecting")


async def back(broadcaster: Broadcaster) -> None:
    """Wait until the broadcaster is live again."""
    await until(lambda: broadcaster.health().state == "connected")
