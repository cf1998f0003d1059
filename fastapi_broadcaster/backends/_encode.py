"""Backends written for encode/broadcaster (`next_published()`) go on working here."""

import asyncio
from collections.abc import AsyncIterator, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from fastapi_broadcaster.backends.base import Backend, Outcome
from fastapi_broadcaster.exceptions import BackendUnavailableError, ConnectionLostError
from fastapi_broadcaster.messages import Cursor, Gap, Message

_PATIENCE = 5.0  # seconds


class _Published(Protocol):
    channel: str
    message: Any


class BroadcastBackend:
    """The base class of encode/broadcaster: subclass `Backend` for new ones."""

    async def connect(self) -> None:
        raise NotImplementedError

    async def disconnect(self) -> None:
        raise NotImplementedError

    async def subscribe(self, channel: str) -> None:
        raise NotImplementedError

    async def unsubscribe(self, channel: str) -> None:
        raise NotImplementedError

    async def publish(self, channel: str, message: Any) -> None:
        raise NotImplementedError

    async def next_published(self) -> _Published:
        raise NotImplementedError


class EncodeAdapter(Backend):
    """Carries text through such a backend. It has no log and no patterns.

    When `next_published` raises, it is connected anew and every channel gets a gap.
    """

    def __init__(self, backend: BroadcastBackend) -> None:
        self.backend = backend
        self._live: set[str] = set()
        self._was_live: set[str] = set()
        self._heard: list[Message | Gap] = []
        self._wake = asyncio.Event()
        self._broken = False
        self._error: BaseException | None = None

    def __str__(self) -> str:
        return type(self.backend).__name__

    async def connect(self) -> None:
        self._wake = asyncio.Event()
        try:
            await self.backend.connect()
        except Exception as error:
            raise BackendUnavailableError(f"{self} could not connect: {error}") from error
        self._broken = False

    async def disconnect(self) -> None:
        self._live.clear()
        self._was_live.clear()
        self._heard.clear()
        await self.backend.disconnect()

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        outcomes: list[Outcome] = []
        for message in messages:
            try:
                await self.backend.publish(message.channel, _text(message.data))
                outcomes.append(None)
            except Exception as error:
                outcomes.append(
                    BackendUnavailableError(f"{self} failed: {error}", maybe_published=True)
                )
        return outcomes

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, Cursor]:
        for channel in channels:
            if channel not in self._live:
                with self._losing(channel):
                    await self.backend.subscribe(channel)
                self._live.add(channel)
            if channel in self._was_live:
                self._was_live.discard(channel)
                self._heard.append(Gap(channel, "reconnected"))
                self._wake.set()
        return {}

    async def unsubscribe(self, channels: Collection[str]) -> None:
        for channel in channels:
            self._was_live.discard(channel)
            if channel in self._live:
                self._live.discard(channel)
                with self._losing(channel):
                    await self.backend.unsubscribe(channel)

    @contextmanager
    def _losing(self, channel: str) -> Generator[None]:
        """A connection that fails here is over for `listen` too.

        Drivers have errors of their own, but what was live before a loss is not refused after it.
        """
        try:
            yield
        except Exception as error:
            if not isinstance(error, OSError) and channel not in self._was_live:
                raise
            self._error = error
            self._wake.set()
            raise ConnectionLostError(f"{self}: {error}") from error

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        if self._broken:
            with suppress(Exception):  # whatever ends a connection that is broken already
                async with asyncio.timeout(_PATIENCE):
                    await self.backend.disconnect()
            try:
                await self.backend.connect()
            except Exception as error:
                raise ConnectionLostError(f"{self}: {error}") from error
            self._broken = False
        yield ()
        pump = asyncio.create_task(self._pump(), name="broadcaster-encode")
        pump.add_done_callback(lambda _: self._wake.set())
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                batch, self._heard = self._heard, []
                if batch:
                    yield batch
                if pump.done() or self._error is not None:
                    cause = self._error
                    if cause is None and not pump.cancelled():
                        cause = pump.exception()
                    self._lose()
                    raise ConnectionLostError(f"{self}: {cause or 'it was cancelled'}")
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    async def _pump(self) -> None:
        while True:
            event = await self.backend.next_published()
            data = event.message
            self._heard.append(
                Message(event.channel, data if isinstance(data, bytes) else str(data).encode())
            )
            self._wake.set()

    def _lose(self) -> None:
        self._broken = True
        self._error = None
        self._was_live |= self._live
        self._live.clear()


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
