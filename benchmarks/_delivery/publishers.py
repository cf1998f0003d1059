"""Publishers: each sends numbers to one line, one after the other, through any worker."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Sequence
from typing import get_args

from benchmarks._delivery.http import request
from benchmarks._delivery.records import Outcome, Publish
from benchmarks._delivery.workers import Worker

_RANGE = 10  # messages per request: so many may be unknown when a worker dies
_OUTCOMES: dict[str, Outcome] = {name: name for name in get_args(Outcome)}


class Publishers:
    """What they have done so far."""

    def __init__(self, workers: Sequence[Worker], *, wanted: int, pause: float, seed: int) -> None:
        self.done: list[Publish] = []
        self.acknowledged = 0
        self._workers = workers
        self._wanted = wanted
        self._pause = pause
        self._random = random.Random(seed)
        self._progress = asyncio.Event()

    @property
    def finished(self) -> bool:
        """Whether enough messages are acknowledged."""
        return self.acknowledged >= self._wanted

    async def reached(self, count: int) -> None:
        """Wait until so many messages are acknowledged."""
        while self.acknowledged < count:
            self._progress.clear()
            await self._progress.wait()

    async def run(self, line: str, publisher: int) -> None:
        """Publish until all publishers together have published enough."""
        number = 0
        while not self.finished:
            number = await self.publish(line, publisher, number, _RANGE)

    async def publish(self, line: str, publisher: int, first: int, count: int) -> int:
        """Publish a range and return the number that is next; nothing is ever sent again."""
        worker = self._random.choice(self._workers)
        target = f"/publish/{line}?publisher={publisher}&first={first}&count={count}"
        number, since = first, time.monotonic()
        try:
            async with request(worker.port, "POST", f"{target}&pause={self._pause}") as answer:
                async for told in answer.pieces(b"\n"):
                    which, outcome, begun, ended = told.decode().split()
                    assert int(which) == number
                    number, since = number + 1, float(ended)
                    known = _OUTCOMES[outcome]
                    self._add(Publish(line, publisher, int(which), known, float(begun), since))
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
        except (OSError, EOFError):
            for lost in range(number, first + count):
                self._add(Publish(line, publisher, lost, "unknown", since, math.inf))
            number = first + count
        return number

    def _add(self, publish: Publish) -> None:
        self.done.append(publish)
        self.acknowledged += publish.outcome == "acknowledged"
        self._progress.set()
