"""Deliveries per second over Server-Sent Events: one server process, many raw sockets.

    python benchmarks/sse.py --clients 500 --publishers 1 --seconds 5 [--no-inline]

The server runs in a process of its own and publishes by itself; this process only reads. Numbers
of different runs are not comparable, ratios within one run are: `--compare` runs inline sends on
and off, in turns.
"""

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import time

SERVER = """
import asyncio, os
from contextlib import asynccontextmanager
from typing import Annotated
from fastapi import Depends, FastAPI
from pydantic import BaseModel
from fastapi_broadcaster import (
    Broadcaster, ChannelTemplate, EventStreamResponse, Subscriber, subscriber,
)

class Tick(BaseModel):
    at: float
    text: str

ticks = ChannelTemplate("ticks", Tick)
broadcaster = Broadcaster(os.environ["URL"], inline_sends=os.environ["INLINE"] == "1")
app = FastAPI(lifespan=broadcaster.lifespan)

@app.get("/events", response_class=EventStreamResponse)
async def events(
    events: Annotated[Subscriber[Tick], Depends(subscriber(ticks, overflow="drop_oldest"))]
) -> EventStreamResponse:
    return EventStreamResponse(events)

@app.post("/go")
async def go(publishers: int, seconds: float) -> int:
    loop = asyncio.get_running_loop()
    channel = broadcaster.channel(ticks)
    end = loop.time() + seconds
    async def publish() -> int:
        count = 0
        while loop.time() < end:
            await channel.publish(Tick(at=loop.time(), text="x" * 40))
            count += 1
            await asyncio.sleep(0)
        return count
    return sum(await asyncio.gather(*(publish() for _ in range(publishers))))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Client(asyncio.Protocol):
    """Counts events without looking into them."""

    events = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        Client.events += data.count(b"data: ")


async def post(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    writer.write(request.encode())
    answer = await reader.read()
    writer.close()
    return answer


async def measure(port: int, clients: int, publishers: int, seconds: float) -> str:
    loop = asyncio.get_running_loop()
    Client.events = 0
    transports = [
        (await loop.create_connection(Client, "127.0.0.1", port))[0] for _ in range(clients)
    ]
    await asyncio.sleep(1.0)
    begun = time.perf_counter()
    answer = await post(port, f"/go?publishers={publishers}&seconds={seconds}")
    spent = time.perf_counter() - begun
    published = int(answer.rpartition(b"\r\n\r\n")[2])
    await asyncio.sleep(0.5)
    for transport in transports:
        transport.close()
    return (
        f"{Client.events / spent:>9,.0f} deliveries/s, {published / spent:>7,.0f} published/s, "
        f"{Client.events / max(1, published * clients):.1%} delivered"
    )


def run(arguments: argparse.Namespace, inline: bool) -> str:
    port = free_port()
    environment = {**os.environ, "URL": arguments.url, "INLINE": "1" if inline else "0"}
    command = [sys.executable, "-c", SERVER + "\nimport uvicorn\n"]
    command[-1] += f"uvicorn.run(app, port={port}, log_level='warning', timeout_keep_alive=60)"
    with subprocess.Popen(command, env=environment) as server:
        try:
            for _ in range(200):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            return asyncio.run(
                measure(port, arguments.clients, arguments.publishers, arguments.seconds)
            )
        finally:
            server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="memory://")
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--publishers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--no-inline", action="store_true")
    parser.add_argument("--compare", action="store_true")
    arguments = parser.parse_args()
    for inline in (True, False, True, False) if arguments.compare else (not arguments.no_inline,):
        print(f"inline sends {'on ' if inline else 'off'}: {run(arguments, inline)}", flush=True)


if __name__ == "__main__":
    main()
