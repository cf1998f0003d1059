"""The log is trimmed in front of a slow listener: a gap for those who miss something by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from fastapi_broadcaster import Broadcaster, Gap, MemoryBackend, Message
from fastapi_broadcaster._buffer import OVERFLOWS, Overflow
from tests.conformance.tools import take, take_until


class Outrun(MemoryBackend):
    """The listener waits in front of 1, and 1 to 3 are not in the log when it goes on."""

    def __init__(self) -> None:
        super().__init__(history=100)
        self.trimmed = asyncio.Event()

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        async for batch in super().listen():
            if not batch:
                yield batch
                continue
            await self.trimmed.wait()
            kept = [one for one in batch if isinstance(one, Message) and int(one.data) > 3]
            yield [Gap("room", "expired"), *kept]

    def trim(self) -> None:
        ring = self._rings["room"]
        while len(ring.messages) > 2:
            message = ring.messages.popleft()
            assert message.position is not None
            ring.floor = message.position[1]
        self.trimmed.set()


@pytest.mark.parametrize("overflow", OVERFLOWS)
async def test_who_has_read_on_in_the_log_misses_nothing(overflow: Overflow) -> None:
    backend = Outrun()
    async with (
        Broadcaster(backend=backend) as broadcaster,
        broadcaster.subscribe("room", overflow=overflow) as early,
    ):
        for number in range(1, 6):
            await broadcaster.publish("room", str(number))
        history = broadcaster.subscribe("room", history="all", overflow=overflow)
        async with history as ahead:
            assert await take(ahead, 5) == ["1", "2", "3", "4", "5"]
            backend.trim()
            await broadcaster.publish("room", "6")
            assert await take_until(ahead, "6") == []
        assert await take_until(early, "6") == [Gap("room", "expired", 3), "4", "5"]
