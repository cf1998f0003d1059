"""One connection that LISTENs: idle, watched, and every notification of it in one place."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import asyncpg

from fastapi_broadcaster.backends._postgres import Address, Connection, Record, close
from fastapi_broadcaster.exceptions import (
    BackendError,
    BackendUnavailableError,
    ConnectionLostError,
)

T = TypeVar("T")
R = TypeVar("R")
_QUIET = 3.0  # seconds of silence before the server is asked, and again before it counts as gone
_CHUNK = 1_000  # names in one round trip


class _Notified(Connection):
    """Hands on every notification.

    asyncpg's own `add_listener` takes a round trip for each name, and for each notification a
    turn of the loop.
    """

    notified: Callable[[str, str], None] | None = None

    def _process_notification(self, pid: int, channel: str, payload: str) -> None:
        if self.notified is not None:
            self.notified(channel, payload)


if not TYPE_CHECKING and not hasattr(asyncpg.Connection, "_process_notification"):
    raise ImportError("this version of asyncpg is not known to fastapi-broadcaster")


class Listening(Generic[T]):
    """A listening connection: `notified(name, payload)` is called in the order of commits.

    What it hears of that, by `hear`, comes out of `batches`.
    """

    def __init__(
        self, address: Address, connection: _Notified, notified: Callable[[str, str], None]
    ) -> None:
        self._address = address
        self._connection = connection
        self._notified = notified
        self._lock = asyncio.Lock()  # asyncpg takes one statement at a time
        self._names = 0
        self._heard: list[T] = []
        self._wake = asyncio.Event()
        self._last = time.monotonic()
        self._lost: Exception | None = None
        connection.notified = self._notify
        connection.add_termination_listener(self._terminated)
        self._watching = asyncio.create_task(self._watch(), name="broadcaster-postgres-watch")

    @classmethod
    async def open(cls, address: Address, notified: Callable[[str, str], None]) -> "Listening[T]":
        """Connect; raises `ConnectionLostError`."""
        try:
            connection = await address.open(_Notified)
        except BackendUnavailableError as error:
            raise ConnectionLostError(str(error)) from error
        return cls(address, connection, notified)

    def hear(self, item: T) -> None:
        self._heard.append(item)
        self._wake.set()

    async def batches(self) -> AsyncIterator[Sequence[T]]:
        """What has been heard since, until the connection is lost."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._heard = self._heard, []
            if batch:
                yield batch
            self.check()

    def check(self) -> None:
        """Raise `ConnectionLostError` once the connection is lost."""
        if self._lost is not None:
            named = isinstance(self._lost, BackendError)
            raise ConnectionLostError(
                str(self._lost) if named else f"{self._address}: {self._lost}"
            ) from self._lost

    async def listen(self, names: Collection[str]) -> None:
        """LISTEN to names that are not listened to, in one round trip."""
        await self._each("listen", names, 1)

    async def unlisten(self, names: Collection[str]) -> None:
        await self._each("unlisten", names, -1)

    async def _each(self, command: str, names: Collection[str], change: int) -> None:
        script = ";".join(f"{command} {_quoted(name)}" for name in names)

        async def run() -> None:
            await self._connection.execute(script, timeout=self._address.command_timeout)
            self._names += change * len(names)

        await self._command(run)

    async def fetch(self, sql: str, *arguments: object) -> list[Record]:
        """Read on this connection; notifications wait meanwhile."""
        return await self._command(
            lambda: self._connection.fetch(sql, *arguments, timeout=self._address.command_timeout)
        )

    async def _command(self, run: Callable[[], Awaitable[R]]) -> R:
        async with self._lock:
            self.check()
            try:
                with self._address.errors():
                    found = await run()
            except BackendUnavailableError as error:
                self._lose(error)
                self.check()
                raise
        self._last = time.monotonic()
        return found

    def _notify(self, name: str, payload: str) -> None:
        self._last = time.monotonic()
        self._notified(name, payload)

    def _terminated(self, _: object) -> None:
        self._lose(OSError("the server closed the connection"))

    def _lose(self, error: Exception) -> None:
        if self._lost is None:
            self._lost = error
        self._wake.set()

    async def _watch(self) -> None:
        """Notice a silent server or network, and a pooler between that forgets LISTEN."""
        while self._lost is None:
            await asyncio.sleep(self._last + _QUIET - time.monotonic())
            if time.monotonic() - self._last < _QUIET:
                continue
            try:
                await self._command(self._ask)
            except BackendError as error:
                self._lose(error)

    async def _ask(self) -> None:
        count = await self._connection.fetchval(
            "select count(*) from pg_listening_channels()", timeout=_QUIET
        )
        if count != self._names:
            raise OSError(
                f"{self._names} channels are listened to, but the server knows of {count}: a "
                "pooler in transaction mode between does not keep LISTEN, use a direct connection"
            )

    async def close(self) -> None:
        """End the task and the connection; what was heard and not taken is dropped."""
        self._connection.notified = None
        self._lose(OSError("the connection was closed"))
        self._watching.cancel()
        await asyncio.wait([self._watching])
        await close(self._connection)


def chunks(names: Collection[str]) -> list[list[str]]:
    """Names by what goes into one round trip."""
    all = list(names)
    return [all[at : at + _CHUNK] for at in range(0, len(all), _CHUNK)]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
