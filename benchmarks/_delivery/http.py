"""As much HTTP as the clients want: a request, and its body piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

HOST = "127.0.0.1"


class Answer:
    """A body that is still coming; to be read once. Raises `EOFError` if it breaks off."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def drop(self) -> None:
        """Cut the connection, as a client does that walks out of the net."""
        self._writer.transport.abort()

    async def pieces(self, separator: bytes) -> AsyncIterator[bytes]:
        """What stands before each separator; a piece that was cut off is none."""
        text = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            text += (await self._reader.readexactly(size + 2))[:-2]
            *whole, text = text.split(separator)
            for piece in whole:
                yield piece


@asynccontextmanager
async def request(port: int, method: str, target: str, *headers: str) -> AsyncIterator[Answer]:
    """Send a request without a body.

    Raises `ConnectionRefusedError` if it was surely not sent, other `OSError`s and `EOFError`s if
    it may have been.
    """
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        lines = [f"{method} {target} HTTP/1.1", "Host: x", *headers]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise RuntimeError(f"{method} {target} was answered with {head!r}")
        yield Answer(reader, writer)
    finally:
        writer.transport.abort()
