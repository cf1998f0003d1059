"""A client of the readiness route that asks all the time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from fastapi import FastAPI

from fastapi_broadcaster import Broadcaster, Health, readiness
from tests.conformance.tools import PATIENCE, until


class Probe:
    """Knows what the route has answered last, and how long it took to change."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client
        self.status = 0
        self.body: dict[str, Any] = {}

    async def run(self) -> None:
        while True:
            answer = await self._client.get("/ready")
            self.status, self.body = answer.status_code, answer.json()
            await asyncio.sleep(0.02)

    async def turns(self, status: int, *, within: float) -> None:
        """Assert that the route gives this answer after at most so many seconds."""
        begun = time.monotonic()
        assert within < PATIENCE
        await until(lambda: self.status == status)
        taken = time.monotonic() - begun
        assert taken < within, f"{status} came after {taken:.1f} s"


@asynccontextmanager
async def probing(broadcaster: Broadcaster) -> AsyncIterator[Probe]:
    """Serve the route, connect the broadcaster, and ask until the end of the block."""
    app = FastAPI(lifespan=broadcaster.lifespan)
    app.add_api_route("/ready", readiness, responses={503: {"model": Health}})
    transport = httpx2.ASGITransport(app)
    async with (
        broadcaster.lifespan(app),
        httpx2.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        probe = Probe(client)
        asking = asyncio.create_task(probe.run())
        try:
            await probe.turns(200, within=20)
            yield probe
        finally:
            asking.cancel()
            await asyncio.wait([asking])
        if not asking.cancelled():
            asking.result()
