"""ASGI servers' sides of one response: what was sent, and what the client does."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp
from starlette.websockets import WebSocket

GET = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
SOCKET = {**GET, "type": "websocket", "subprotocols": []}


class Browser:
    """Takes everything that an event stream sends, until `leave`."""

    def __init__(self) -> None:
        self.body = b""
        self.sends = 0
        self._gone = asyncio.Event()

    async def receive(self) -> Any:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sends += 1
        self.body += message.get("body", b"")

    def leave(self) -> None:
        self._gone.set()

    @property
    def begun(self) -> bool:
        """Whether the first lines have come, before any event."""
        return b"retry:" in self.body

    @property
    def data(self) -> list[Any]:
        """The events' data, decoded."""
        return [json.loads(line) for line in re.findall(rb"^data: (.+)$", self.body, re.M)]


@asynccontextmanager
async def opened(response: ASGIApp, browser: Browser) -> AsyncIterator[asyncio.Task[None]]:
    """Respond in a task; the browser leaves at the end of the block."""

    async def respond() -> None:
        await response(GET, browser.receive, browser.send)

    task = asyncio.create_task(respond())
    try:
        yield task
    finally:
        browser.leave()
        await asyncio.wait([task])


class Page:
    """A WebSocket's client: sends what it is told to, and takes frames while it `reads`."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.closed: dict[str, Any] | None = None
        self.reads = asyncio.Event()
        self.reads.set()
        self._out: asyncio.Queue[Any] = asyncio.Queue()
        self._out.put_nowait({"type": "websocket.connect"})
        self.socket = WebSocket(SOCKET, self._out.get, self._take)

    def write(self, text: str) -> None:
        self._out.put_nowait({"type": "websocket.receive", "text": text})

    def leave(self) -> None:
        self._out.put_nowait({"type": "websocket.disconnect", "code": 1000})

    @property
    def read(self) -> bool:
        """Whether the server has read all that was written."""
        return self._out.empty()

    async def _take(self, message: Any) -> None:
        if message["type"] == "websocket.send":
            await self.reads.wait()
            self.sent.append(json.loads(message["text"]))
        elif message["type"] == "websocket.close":
            self.closed = message
