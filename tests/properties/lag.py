"""Between an engine and its backend: batches come late and one by one, pages take their time."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, cast

from fastapi_broadcaster import Gap, HistoryBackend, Message


class Lag:
    """Takes the place of `listen` and `history` of one backend object.

    The listener gets one message per permit, and `heard` tells how far it is in each channel,
    whose messages are numbers.
    """

    def __init__(self, backend: HistoryBackend, *, pause: float) -> None:
        """`pause`: the longest that a page is held back before and after it is read, in seconds;
        0 for a few turns of the loop."""
        self.heard: Counter[str] = Counter()
        self._pause = pause
        self._listen = backend.listen
        self._history = backend.history
        self.begin(random.Random(0))
        vars(backend).update(listen=self.listen, history=self.history)

    def begin(self, die: random.Random) -> None:
        """A new run, whose pauses this die decides."""
        self.die = die
        self.hold()

    def hold(self) -> None:
        """Hold back what comes from now on."""
        self.unlimited = False
        self.permits = asyncio.Semaphore(0)

    def let_go(self) -> None:
        """Hold nothing back."""
        self.unlimited = True
        for _ in range(1_000):
            self.permits.release()

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        listening = cast(AsyncGenerator[Sequence[Message | Gap], None], self._listen())
        async with aclosing(listening):
            async for batch in listening:
                if not batch:
                    yield batch
                for item in batch:
                    if not self.unlimited:
                        await self.permits.acquire()
                    if isinstance(item, Message):
                        self.heard[item.channel] = int(item.data)
                    yield [item]

    async def history(self, channel: str, **where: Any) -> list[Message]:
        await self._wait()
        found: list[Message] = await self._history(channel, **where)
        await self._wait()
        return found

    async def _wait(self) -> None:
        if self._pause:
            await asyncio.sleep(self.die.random() ** 2 * self._pause)
        for _ in range(self.die.randrange(5)):
            await asyncio.sleep(0)
