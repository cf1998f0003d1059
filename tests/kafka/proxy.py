"""A TCP proxy in a thread of its own, for brokers that outlive the loops of the tests."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Self

from tests.proxy import Proxy


class _Line(Proxy):
    """Lets nobody through for a while when it has lost a reply: who asks again hears nothing."""

    silent_until = 0.0

    def lose(self, to: bytes, silence: float) -> None:
        self._trigger, self._silence = to, silence

    def drop(self) -> None:
        for line in self._lines:
            line.cancel()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if time.monotonic() > self.silent_until:
            await super()._connect(reader, writer)

    async def _replies(
        self, above: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        await super()._replies(above, writer, doomed)
        if doomed.is_set():
            self.silent_until = time.monotonic() + self._silence


class BackgroundProxy:
    """Forwards to a port; its own `port` stays the same from enter to exit."""

    def __init__(self, target: int) -> None:
        self._line = _Line(target, lose_reply_to=b"\0nothing is like this\0")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._line.__aenter__(), self._loop).result(30)
        self.port = self._line.port
        return self

    def __exit__(self, *exc_info: object) -> None:
        asyncio.run_coroutine_threadsafe(self._line.__aexit__(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def quiet(self) -> None:
        """Wait until nobody is connected, and the sockets of this process are closed."""

        async def wait() -> None:
            async with asyncio.timeout(30):
                while self._line._lines:  # noqa: ASYNC110  # the proxy has no event for it
                    await asyncio.sleep(0.01)

        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(wait(), self._loop))

    def drop(self) -> None:
        """Close every connection; new ones are welcome."""
        self._loop.call_soon_threadsafe(self._line.drop)

    def lose_reply(self, to: bytes, *, silence: float) -> None:
        """Let the next request with these bytes through, but not its reply.

        Nobody gets through for so many seconds behind it.
        """
        self._loop.call_soon_threadsafe(self._line.lose, to, silence)
