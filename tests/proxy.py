"""A TCP proxy that passes a request on and then cuts the line in front of the reply."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self

HOST = "127.0.0.1"


class Proxy:
    """Forwards to a port of this machine, bytes as they come.

    The first request that holds `lose_reply_to` reaches the server; when the server has answered,
    both sides of that connection are closed and the answer is thrown away.
    """

    def __init__(self, target: int, *, lose_reply_to: bytes | None = None, port: int = 0) -> None:
        """On a free port unless one is given."""
        self.target = target
        self.port = port
        self.lost = 0
        self._trigger = lose_reply_to
        self._lines: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for line in self._lines:
            line.cancel()
        if self._lines:
            await asyncio.wait(self._lines)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._connect(reader, writer)
        finally:
            await _closed(writer)
            self._lines.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        above_reader, above = await asyncio.open_connection(HOST, self.target)
        doomed = asyncio.Event()
        ways = [
            asyncio.create_task(self._requests(reader, above, doomed)),
            asyncio.create_task(self._replies(above_reader, writer, doomed)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            above.close()  # before the waits, which may be cancelled
            await asyncio.wait(ways)
            await _closed(above)

    async def _requests(
        self, reader: asyncio.StreamReader, above: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if self._trigger is not None and self._trigger in data:
                    self._trigger = None
                    doomed.set()
                above.write(data)
                await above.drain()

    async def _replies(
        self, above: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await above.read(65_536):
                if doomed.is_set():
                    self.lost += 1
                    return
                writer.write(data)
                await writer.drain()


async def _closed(writer: asyncio.StreamWriter) -> None:
    """Close, and wait until the socket is; what cannot be sent within a second is dropped."""
    writer.close()
    with suppress(OSError, asyncio.CancelledError):
        async with asyncio.timeout(1):
            await writer.wait_closed()
    writer.transport.abort()
