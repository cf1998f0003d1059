"""The network between a browser and the server: a TCP proxy that can be cut and mended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

HOST = "127.0.0.1"


class Line:
    """Forwards to a port of this machine; while it is cut, connections are reset."""

    def __init__(self, target: int) -> None:
        self.cut_off = False
        self._target = target
        self._connections: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        self.cut_off = True
        for writer in list(self._connections):
            writer.transport.abort()

    def mend(self) -> None:
        self.cut_off = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.cut_off:
            writer.transport.abort()
            return
        above_reader, above = await asyncio.open_connection(HOST, self._target)
        pair = {writer, above}
        self._connections |= pair
        await asyncio.gather(_pass(reader, above), _pass(above_reader, writer))
        self._connections -= pair


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on until either side ends, then end the other too."""
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def line_to(port: int) -> AsyncIterator[tuple[Line, str]]:
    """A line to a port, and the URL of its near end."""
    line = Line(port)
    server = await asyncio.start_server(line.serve, HOST, 0)
    try:
        yield line, f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        line.cut()
