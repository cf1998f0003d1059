"""SIGTERM with 500 event streams and 500 WebSockets open: every one of them cleans up."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from .clients import WAIT
from .processes import WebServer

pytestmark = pytest.mark.alone

MANY = 500
SOON = 10.0  # seconds; two or three, on a machine that is busy with other tests
HANDSHAKE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)


class RawClient(asyncio.Protocol):
    """Sends a request and keeps what comes: a client that costs next to nothing."""

    def __init__(self, request: str, begun: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.received = b""
        self.begun: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[bytes] = loop.create_future()
        self._request = request
        self._awaited = begun

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request.encode())

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self._awaited in self.received and not self.begun.done():
            self.begun.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(self.received)


async def open_raw(server: WebServer, path: str, headers: str, begun: bytes) -> RawClient:
    """Connect, ask, and return when what came shows that the stream has begun."""
    request = f"GET {path} HTTP/1.1\r\nHost: {server.host}\r\n{headers}\r\n"
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(
        lambda: RawClient(request, begun), "127.0.0.1", server.port
    )
    async with asyncio.timeout(WAIT):
        await client.begun
    return client


@pytest.mark.usefixtures("many_files")
async def test_sigterm_with_1000_streams_open(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    with WebServer("drained:app", environment={"LINES": str(lines)}) as server:
        streams, sockets = list[RawClient](), list[RawClient]()
        for number in range(0, MANY, 50):  # fewer than wait for `accept` at once
            rooms = [f"/rooms/{room % 20}" for room in range(number, number + 50)]
            streams += await asyncio.gather(
                *(open_raw(server, f"{room}/events", "", b"\n\n") for room in rooms)
            )
            sockets += await asyncio.gather(
                *(open_raw(server, f"{room}/ws", HANDSHAKE, b"\r\n\r\n") for room in rooms)
            )
        assert await asyncio.to_thread(server.terminate) < SOON
        async with asyncio.timeout(WAIT):
            bodies = await asyncio.gather(*(stream.ended for stream in streams))
            frames = await asyncio.gather(*(socket.ended for socket in sockets))
        assert Counter(lines.read_text().splitlines()) == {
            "sse finally": MANY,
            "sse dependency": MANY,
            "ws finally": MANY,
            "ws dependency": MANY,
        }
    retries = {body.rpartition(b"retry: ")[2].split()[0] for body in bodies}
    assert len(retries) > MANY // 4, "not jittered: all would come back at once"
    closes = Counter(frame.partition(b"\r\n\r\n")[2][2:4] for frame in frames)
    assert closes == {(1012).to_bytes(2, "big"): MANY}
