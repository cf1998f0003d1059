"""The only task that reads from the broker, and the only place that reconnects."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from fastapi_broadcaster._hub import Hub
from fastapi_broadcaster._reconciler import Reconciler
from fastapi_broadcaster.backends.base import Backend
from fastapi_broadcaster.exceptions import ConnectionLostError
from fastapi_broadcaster.health import State

logger = logging.getLogger("fastapi_broadcaster")


@dataclass(slots=True, frozen=True)
class Backoff:
    """Pauses between attempts to reconnect: `first` seconds, doubling to `cap`, full jitter."""

    first: float = 0.1
    cap: float = 3.0

    def pause(self, attempt: int) -> float:
        """How many seconds to wait after so many failed attempts."""
        return random.uniform(0, min(self.cap, self.first * 2 ** min(attempt, 16)))


class Listener:
    """Runs one generation after the other: backend -> hub, for ever.

    It is the publisher's gate: open while all that this process hears is live.
    """

    def __init__(self, backend: Backend, hub: Hub, *, backoff: Backoff) -> None:
        self._backend = backend
        self._hub = hub
        self._backoff = backoff
        self._live = asyncio.Event()
        self._closed: Exception | None = None
        self.reconciler = Reconciler(backend, restored=self._restored)
        self.caught_up: Callable[[], None] = lambda: None
        self.lost: Callable[[], None] = lambda: None
        self.restored: Callable[[], None] = lambda: None
        self.state: State = "connecting"
        self.since = time.time()
        self.last_error: Exception | None = None
        self.reconnects = 0

    def is_open(self) -> bool:
        return self._live.is_set() and self._closed is None

    async def wait_open(self) -> None:
        """Wait for a live connection; raises what `close` was given."""
        await self._live.wait()
        if self._closed is not None:
            raise self._closed

    def close(self, error: Exception) -> None:
        """Let nobody wait any longer: there will be no connection."""
        self._closed = error
        self._live.set()

    def _restored(self) -> None:
        if not self._live.is_set():
            self._live.set()
            again = self.state == "reconnecting"
            self._turn("connected")
            if again:
                logger.info("%s: connected again", self._backend)
                self.restored()

    def _turn(self, state: State) -> None:
        self.state = state
        self.since = time.time()

    async def run(self) -> None:
        """Listen for ever; a lost connection is followed by a pause and a new generation."""
        attempt = 0
        while True:
            begun = time.monotonic()
            error = await self._generation()
            if time.monotonic() - begun > self._backoff.cap:
                attempt = 0
            self._lost(error)
            await asyncio.sleep(self._backoff.pause(attempt))
            attempt += 1

    async def _generation(self) -> Exception:
        """Live through one connection and return how it ended."""
        connected = False
        batches = self._backend.listen()
        try:
            async for batch in batches:
                if not connected:
                    connected = True
                    self.reconciler.connected()
                if batch:
                    self._hub.dispatch(batch)
                    self.caught_up()
        except ConnectionLostError as error:
            return error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            logger.exception("%s: the listener was cancelled from within", self._backend)
            return ConnectionLostError(str(error) or "cancelled from within")
        except Exception as error:
            logger.exception("%s: the listener failed and starts again", self._backend)
            return error
        finally:
            if isinstance(batches, AsyncGenerator):
                await batches.aclose()
        return ConnectionLostError("the connection was closed")

    def _lost(self, error: Exception) -> None:
        self.last_error = error
        self._live.clear()
        self.reconciler.lost()
        self._hub.lost()
        if self.state == "connected":
            name = str(self._backend)
            why = str(error).removeprefix(name).removeprefix(":").lstrip()
            logger.warning("%s: connection lost (%s); reconnecting", name, why)
            self.reconnects += 1
            self._turn("reconnecting")
            self.lost()
