"""What one client that stops reading costs the others, and the server: 1,000 event streams.

    python benchmarks/stalled.py [--clients 1000] [--messages 100000] [--rounds 2]

Bursts of messages at a fixed pace, each with the time of its publishing; this process reads for
all clients and notes how old the first message of each piece is when it comes. Each round is run
with all clients reading, and with one that stops after its request.
"""

import argparse
import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from array import array
from pathlib import Path

SERVER = """
import asyncio, time
from typing import Annotated
from fastapi import Depends, FastAPI
from fastapi_broadcaster import (
    Broadcaster, EventStreamResponse, Health, Subscriber, subscriber,
)

broadcaster = Broadcaster("memory://")
app = FastAPI(lifespan=broadcaster.lifespan)

@app.get("/events", response_class=EventStreamResponse)
async def events(
    events: Annotated[Subscriber[str], Depends(subscriber("feed"))]
) -> EventStreamResponse:
    return EventStreamResponse(events)

@app.post("/go")
async def go(messages: int, burst: int, interval: float) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time()
    for start in range(0, messages, burst):
        for number in range(start, start + burst):
            await broadcaster.publish("feed", f"#{number} {time.monotonic():.6f} {'x' * 40}")
        due += interval
        await asyncio.sleep(due - loop.time())

@app.get("/health")
async def health() -> Health:
    return broadcaster.health()
"""
MESSAGE = re.compile(rb'data: "#(\d+) ([\d.]+) ')


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Reader(asyncio.Protocol):
    """Counts the messages, and notes how old the first one of each piece is."""

    ages = array("d")

    def __init__(self) -> None:
        self.events = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        self.events += data.count(b"\n\n")
        if (found := MESSAGE.search(data)) is not None:
            Reader.ages.append(time.monotonic() - float(found[2]))


async def ask(port: int, request: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{request} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    writer.write(head.encode())
    answer = await reader.read()
    writer.close()
    return answer.rpartition(b"\r\n\r\n")[2]


def stop_reading(port: int) -> socket.socket:
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    peer.connect(("127.0.0.1", port))
    peer.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    return peer


def mebibytes(pid: int) -> float:
    return (
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
    )


async def measure(port: int, pid: int, arguments: argparse.Namespace, stalled: bool) -> str:
    loop = asyncio.get_running_loop()
    Reader.ages = array("d")
    readers = [
        (await loop.create_connection(Reader, "127.0.0.1", port))[1]
        for _ in range(arguments.clients - stalled)
    ]
    peer = stop_reading(port) if stalled else None
    await asyncio.sleep(2.0)
    before = mebibytes(pid)
    query = f"messages={arguments.messages}&burst={arguments.burst}&interval={arguments.interval}"
    await ask(port, f"POST /go?{query}")
    grown = mebibytes(pid) - before
    await asyncio.sleep(2.0)
    complete = sum(reader.events == arguments.messages + 1 for reader in readers)  # and `retry:`
    health = (await ask(port, "GET /health")).decode()
    if peer is not None:
        peer.close()
    ages = sorted(Reader.ages)
    p50, p99 = (1_000 * ages[int(len(ages) * share)] for share in (0.5, 0.99))
    return (
        f"p50 {p50:6.1f} ms, p99 {p99:6.1f} ms, {complete} of {len(readers)} got all, "
        f"{grown:+.1f} MiB, {re.findall(r'.stalled.:[0-9]+', health)}"
    )


def run(arguments: argparse.Namespace, stalled: bool) -> str:
    port = free_port()
    command = [sys.executable, "-c", SERVER + "\nimport uvicorn\n"]
    command[-1] += f"uvicorn.run(app, port={port}, log_level='warning')"
    with subprocess.Popen(command) as server:
        try:
            for _ in range(400):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            return asyncio.run(measure(port, server.pid, arguments, stalled))
        finally:
            server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=1_000)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--burst", type=int, default=100)
    parser.add_argument("--interval", type=float, default=0.1, help="seconds")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    for _ in range(arguments.rounds):
        for stalled in (False, True):
            kind = "one stalled" if stalled else "all read   "
            print(f"{kind}: {run(arguments, stalled)}", flush=True)


if __name__ == "__main__":
    main()
