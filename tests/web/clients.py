"""Clients: Server-Sent Events over a plain socket, and a few lines for HTTP and polling."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2

WAIT = 20.0  # seconds until a test gives up on something that takes milliseconds


@dataclass(slots=True)
class Frame:
    """One block of an event stream as it came, None for fields that were not there."""

    data: str | None = None
    id: str | None = None
    event: str | None = None
    retry: int | None = None
    comment: str | None = None

    @property
    def json(self) -> Any:
        assert self.data is not None, self
        return json.loads(self.data)

    @classmethod
    def parse(cls, block: str) -> Frame:
        """Read the lines of a block; anything that is not a known field is an error."""
        frame = cls()
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "retry":
                frame.retry = int(value)
            elif name == "data":
                frame.data = value if frame.data is None else f"{frame.data}\n{value}"
            else:
                field = {"": "comment", "id": "id", "event": "event"}[name]
                assert getattr(frame, field) is None, f"{name} stands twice in {block!r}"
                setattr(frame, field, value)
        return frame


class EventStream:
    """One GET that is answered with an event stream, read frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._reader = reader
        self._writer = writer
        self._text = b""

    async def begin(self, target: str, host: str, headers: Mapping[str, str]) -> None:
        lines = [f"GET {target} HTTP/1.1", f"Host: {host}", "Accept: text/event-stream"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(head[0].split()[1])
        for line in filter(None, head[1:]):
            name, _, value = line.partition(": ")
            self.headers[name.lower()] = value

    async def _chunk(self) -> bytes:
        """The next chunk of the body, b"" at its end."""
        if self.headers.get("transfer-encoding") != "chunked":
            return b""
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        return (await self._reader.readexactly(size + 2))[:-2]

    async def _block(self) -> str | None:
        """The next block of the stream, None at its end."""
        while b"\n\n" not in self._text:
            if not (chunk := await self._chunk()):
                assert not self._text, f"the stream ended inside {self._text!r}"
                return None
            self._text += chunk
        block, _, self._text = self._text.partition(b"\n\n")
        return block.decode()

    async def frame(self) -> Frame:
        """The next frame, whatever it is."""
        async with asyncio.timeout(WAIT):
            block = await self._block()
        assert block is not None, "the stream has ended"
        return Frame.parse(block)

    async def event(self) -> Frame:
        """The next frame that a browser would dispatch."""
        async with asyncio.timeout(WAIT):  # pings come for ever
            while (frame := await self.frame()).data is None:
                pass
        return frame

    async def rest(self) -> list[Frame]:
        """All frames until the server ends the stream."""
        async with asyncio.timeout(WAIT):
            blocks = [block async for block in self._blocks()]
        return [Frame.parse(block) for block in blocks]

    async def _blocks(self) -> AsyncIterator[str]:
        while (block := await self._block()) is not None:
            yield block

    def close(self) -> None:
        self._writer.close()

    def abort(self) -> None:
        """Leave as a killed process does: with a reset."""
        self._writer.transport.abort()


@asynccontextmanager
async def open_events(
    url: str, *, headers: Mapping[str, str] | None = None, receive_buffer: int | None = None
) -> AsyncIterator[EventStream]:
    """Open an event stream; `receive_buffer` makes a client that soon takes no more."""
    parts = urlsplit(url)
    peer = socket.socket()
    if receive_buffer is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    peer.setblocking(False)
    await asyncio.get_running_loop().sock_connect(peer, (str(parts.hostname), parts.port))
    reader, writer = await asyncio.open_connection(sock=peer, limit=2**16)
    stream = EventStream(reader, writer)
    try:
        async with asyncio.timeout(WAIT):
            target = f"{parts.path}?{parts.query}" if parts.query else parts.path
            await stream.begin(target, parts.netloc, headers or {})
        yield stream
    finally:
        writer.transport.abort()


async def post(url: str, body: object, **headers: str) -> httpx2.Response:
    """POST a JSON body on a connection of its own."""
    async with httpx2.AsyncClient(timeout=WAIT) as client:
        return await client.post(url, json=body, headers=headers)


async def get_json(url: str) -> Any:
    async with httpx2.AsyncClient(timeout=WAIT) as client:
        return (await client.get(url)).json()


async def until(condition: Callable[[], Awaitable[bool]], what: str = "it") -> None:
    """Poll until the condition holds; fail after `WAIT` seconds."""
    deadline = time.monotonic() + WAIT
    while not await condition():
        assert time.monotonic() < deadline, f"{what} did not come about"
        await asyncio.sleep(0.02)
