"""One client of a hundred stops reading: memory, its end, and what the others get."""

from __future__ import annotations

import asyncio
import re
import select
import socket
from pathlib import Path

import pytest

from .clients import WAIT, get_json, post, until
from .processes import WebServer

pytestmark = pytest.mark.alone

MESSAGES, SIZE, STEP = 10_000, 1_000, 500
SEND_TIMEOUT = 5.0  # seconds; by then the messages have gone, on a quiet machine
MIB = 1_048_576
HANDSHAKE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)
NUMBER = re.compile(rb"#(\d+) ")


class Reader(asyncio.Protocol):
    """Notes the numbers of the messages that come, and how far they go."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._rest = b""
        self.numbers: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        self.numbers += map(int, NUMBER.findall(data))
        self._rest = b"#" + data.rpartition(b"#")[2][:8]
        if NUMBER.match(self._rest):
            self._rest = b""


async def stalled_peer(server: WebServer, request: bytes) -> socket.socket:
    """Asks, and reads nothing any more."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    peer.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(peer, ("127.0.0.1", server.port))
    await loop.sock_sendall(peer, request)
    return peer


async def read_all(peer: socket.socket) -> None:
    """What was on its way, and the end."""
    async with asyncio.timeout(WAIT):
        while await asyncio.get_running_loop().sock_recv(peer, 65_536):
            pass


def resident(server: WebServer) -> int:
    """Bytes of memory that the process has now."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * 4_096


@pytest.mark.parametrize(
    ("path", "headers", "others"), [("/events", "", 99), ("/ws", HANDSHAKE, 29)], ids=["sse", "ws"]
)
async def test_a_stalled_client_costs_little_and_the_others_get_everything(
    path: str, headers: str, others: int
) -> None:
    async def health(name: str) -> int:
        return int((await get_json(f"{server.url}/health"))[name])

    async def all_are_here() -> bool:
        return await health("subscribers") == others + 1

    async def it_has_gone() -> bool:
        return await health("stalled") == 1

    async def publish(first: int, last: int) -> None:
        """In steps: this process alone reads for all."""
        for step in range(first, last, STEP):
            query = f"first={step}&last={step + STEP}&size={SIZE}"
            assert (await post(f"{server.url}/publish?{query}", None)).status_code == 200
            async with asyncio.timeout(WAIT):
                while not all(len(reader.numbers) == step + STEP for reader in readers):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)

    with WebServer("feed:app", environment={"SEND_TIMEOUT": str(SEND_TIMEOUT)}) as server:
        request = f"GET {path} HTTP/1.1\r\nHost: {server.host}\r\n{headers}\r\n".encode()
        loop = asyncio.get_running_loop()
        connected = [
            await loop.create_connection(lambda: Reader(request), "127.0.0.1", server.port)
            for _ in range(others)
        ]
        readers = [reader for _, reader in connected]
        with await stalled_peer(server, request) as stalled:
            await until(all_are_here, "all clients")
            before = resident(server)
            await publish(0, MESSAGES)
            grown = resident(server) - before
            assert grown < 10 * MIB, f"{grown / MIB:.1f} MiB more"
            for reader in readers:
                assert reader.numbers == list(range(MESSAGES))
            await until(it_has_gone, "the end of the stalled client")
            assert await health("subscribers") == others
            with pytest.raises(ConnectionResetError):
                await read_all(stalled)
            assert "closed a client of feed that took nothing for" in server.log
        for transport, _ in connected:
            transport.close()


@pytest.mark.parametrize(
    ("program", "path", "headers"),
    [("granian", "/events", ""), ("hypercorn", "/events", ""), ("hypercorn", "/ws", HANDSHAKE)],
)
async def test_other_servers_let_go_of_a_stalled_client_too(
    program: str, path: str, headers: str
) -> None:
    async def health(name: str) -> int:
        return int((await get_json(f"{server.url}/health"))[name])

    async def it_is_here() -> bool:
        return await health("subscribers") == 1

    async def reset() -> bool:
        return bool(poller.poll(0))

    async def it_has_gone() -> bool:
        return (await health("stalled"), await health("subscribers")) == (1, 0)

    with WebServer("feed:app", server=program, environment={"SEND_TIMEOUT": "0.5"}) as server:
        request = f"GET {path} HTTP/1.1\r\nHost: {server.host}\r\n{headers}\r\n".encode()
        with await stalled_peer(server, request) as stalled:
            poller = select.poll()
            poller.register(stalled, 0)  # errors are told always
            await until(it_is_here, "the client")
            await post(f"{server.url}/publish?first=0&last=1000&size=30000", None)
            await until(it_has_gone, "the end of the stalled client")
            await until(reset, "the end of its connection, though it reads nothing")
