"""Clients: each follows one line as a browser would, and comes back whenever its stream ends."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence

from benchmarks._delivery.http import Answer, request
from benchmarks._delivery.records import LAST, Item, Reader, Received, Resumed, Told
from benchmarks._delivery.workers import Worker

_PAUSE = (0.02, 0.2)  # seconds until it comes back: a browser's would only make runs longer


class Client:
    """One EventSource."""

    def __init__(self, name: str, line: str, workers: Sequence[Worker], *, seed: int) -> None:
        self.items: list[Item] = []
        self.drops = 0
        self.id: str | None = None
        """The last event id; None until the first stream has begun."""
        self.finished = False
        self._name = name
        self._line = line
        self._workers = workers
        self._random = random.Random(seed)
        self._answer: Answer | None = None

    @property
    def reader(self) -> Reader:
        return Reader(self._name, self._line, self.items)

    def drop(self) -> None:
        """Cut the connection, wherever in a frame it is."""
        if self._answer is not None:
            self.drops += 1
            self._answer.drop()

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            port = self._random.choice(self._workers).port
            headers = [] if self.id is None else [f"Last-Event-ID: {self.id}"]
            try:
                async with request(port, "GET", f"/events/{self._line}", *headers) as answer:
                    self._answer = answer
                    async for frame in answer.pieces(b"\n\n"):
                        self._take(frame.decode())
            except (OSError, EOFError):
                pass
            if self._answer is not None and self.id is not None:
                self.items.append(Resumed())
            self._answer = None
            await asyncio.sleep(self._random.uniform(*_PAUSE))

    def _take(self, frame: str) -> None:
        fields = dict(line.split(": ", 1) for line in frame.split("\n"))
        self.id = fields.get("id", self.id)
        if "data" not in fields:
            return
        data = json.loads(fields["data"])
        if fields.get("event") == "gap":
            self.items.append(Told(data["reason"]))
        else:
            publisher, number = data.split()
            received = Received(int(publisher), int(number))
            self.items.append(received)
            self.finished = received.publisher == LAST
