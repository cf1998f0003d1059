"""One generation of `redis-stream://`: several connections that read, one to ask questions."""

import asyncio
import logging
from collections.abc import AsyncIterator, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from fastapi_broadcaster.backends._redis import LOST, Server, pack
from fastapi_broadcaster.backends._redis_reader import (
    CHUNK,
    WIDTH,
    Place,
    Questions,
    Reader,
    Settings,
)
from fastapi_broadcaster.exceptions import BackendError, ConnectionLostError
from fastapi_broadcaster.messages import Gap, Message

logger = logging.getLogger("fastapi_broadcaster")
_PAUSE = 2e-6  # seconds per channel between two XREADs: each of them costs about that much
_PAUSES = (0.001, 0.02)  # none that is shorter, none that is longer


@dataclass(slots=True)
class Standing:
    """Where this process stands, from one generation to the next."""

    places: dict[str, Place] = field(default_factory=dict[str, Place])
    epoch: int = 0
    """The life of the server's data in which the places were reached."""
    heard: float = 0.0
    """Until when all places had been read, on the clock of `time.monotonic`."""


class Listening:
    """Readers as many as the channels need, and at least one, which notices a loss."""

    def __init__(self, server: Server, settings: Settings, standing: Standing) -> None:
        self._server = server
        self._settings = settings
        self._standing = standing
        self._questions = self._ask_over_new()
        self._epoch = 0
        self._readers: dict[Reader, asyncio.Task[None]] = {}
        self._of: dict[str, Reader] = {}
        self._due = set(standing.places)  # not proven yet in this generation
        self._heard: list[Message | Gap] = []
        self._wake = asyncio.Event()
        self._lost: Exception | None = None

    def _ask_over_new(self) -> Questions:
        connection = self._server.connection()
        return Questions(connection, self._settings, self._server.timeout)

    async def open(self) -> None:
        """Connect; raises `ConnectionLostError`."""
        try:
            await self._server.revive(self._questions.connection)
            self._epoch = await self._questions.epoch()
            await self._widen()
        except ConnectionLostError:
            raise
        except (RedisError, BackendError, OSError) as error:
            raise ConnectionLostError(f"{self._server}: {error}") from error

    async def batches(self) -> AsyncIterator[Sequence[Message | Gap]]:
        """Whatever has been read since, until a connection is lost."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._heard = self._heard, []
            if batch:
                yield batch
            if self._lost is not None:
                raise self._loss() from self._lost

    def _tell(self, items: Sequence[Message | Gap]) -> None:
        if items:
            self._heard += items
            self._wake.set()

    def _lose(self, error: Exception) -> None:
        if self._lost is None:
            self._lost = error
        self._wake.set()

    def _loss(self) -> ConnectionLostError:
        return ConnectionLostError(f"{self._server}: {self._lost}")

    @contextmanager
    def _asking(self) -> Generator[None]:
        """Give errors our names; when a connection is lost, all of them are given up."""
        if self._lost is not None:
            raise self._loss() from self._lost
        try:
            yield
        except (*LOST, ConnectionLostError) as error:
            self._lose(error)
            raise self._loss() from error
        except RedisError as error:
            raise BackendError(f"{self._server}: {error}") from error

    # -- channels that come and go ----------------------------------------------------------

    async def join(self, channels: Iterable[str]) -> None:
        """Hear channels: the known ones from where they are, with proof, new ones from now on."""
        names = [channel for channel in channels if channel not in self._of]
        woken: set[bytes] = set()
        with self._asking():
            for at in range(0, len(names), CHUNK):
                places = await self._locate(names[at : at + CHUNK])
                while places:
                    reader = await self._reader()
                    room = WIDTH - len(reader)
                    reader.add(places[:room])
                    woken.add(reader.wake.key)
                    self._of.update((place.channel, reader) for place in places[:room])
                    places = places[room:]
            if woken:
                await self._questions.wake(woken)

    async def _locate(self, channels: Sequence[str]) -> list[Place]:
        """The places of channels; a gap is told for each that cannot prove to have all."""
        standing = self._standing
        known = [standing.places[name] for name in channels if name in standing.places]
        if known:
            gaps = await self._questions.prove(known, epoch=standing.epoch, heard=standing.heard)
            self._due.difference_update(channels)
            self._tell(list(gaps.values()))
        new = [
            Place(name, self._settings.key(name))
            for name in channels
            if name not in standing.places
        ]
        if new:
            await self._questions.begin(new)
            standing.places.update((place.channel, place) for place in new)
        return known + new

    async def leave(self, places: Iterable[Place]) -> None:
        """Hear these no more; a reader that has none left goes, unless it is the last one."""
        for place in places:
            self._due.discard(place.channel)
            reader = self._of.pop(place.channel, None)
            if reader is not None:
                reader.remove(place)
        idle = [reader for reader in self._readers if not len(reader)]
        if len(idle) == len(self._readers):
            idle = idle[1:]
        for reader in idle:
            await self._end(reader)
        if idle:
            with self._asking():
                await self._questions.forget(reader.wake.key for reader in idle)

    # -- readers ----------------------------------------------------------------------------

    async def _reader(self) -> Reader:
        for reader in self._readers:
            if len(reader) < WIDTH:
                return reader
        return await self._widen()

    async def _widen(self) -> Reader:
        questions = self._ask_over_new()
        await self._server.revive(questions.connection)
        if self._lost is not None:  # nobody would end this reader
            await questions.connection.disconnect(nowait=True)
            raise self._loss() from self._lost
        reader = Reader(
            questions, self._settings, epoch=self._epoch, tell=self._tell, pause=self._pause
        )
        task = asyncio.create_task(self._run(reader), name="broadcaster-redis-stream")
        self._readers[reader] = task
        return reader

    async def _run(self, reader: Reader) -> None:
        try:
            await reader.run()
        except (RedisError, BackendError, OSError) as error:
            self._lose(error)
        except Exception as error:
            logger.exception("%s: reading failed", self._server)
            self._lose(error)

    def _pause(self) -> float:
        shortest, longest = _PAUSES
        pause = min(_PAUSE * len(self._of), longest)
        return pause if pause >= shortest else 0.0

    async def _end(self, reader: Reader) -> None:
        task = self._readers.pop(reader)
        task.cancel()
        await asyncio.wait([task])
        await reader.close()

    async def close(self) -> None:
        """End all; what the next generation must know is kept."""
        self._lose(RedisConnectionError("the connection was closed"))
        self._questions.over = True  # no place may move whose gap is told to nobody
        if self._readers and not self._due:
            self._standing.epoch = self._epoch
            self._standing.heard = min(reader.heard for reader in self._readers)
        for task in self._readers.values():
            task.cancel()  # all of them, also when this is cancelled
        readers = list(self._readers)
        wakes = [reader.wake.key for reader in readers]
        connection = self._questions.connection
        try:
            for reader in readers:
                await self._end(reader)
            if connection.is_connected:
                with suppress(RedisError, OSError):  # nobody waits for the answer
                    command = pack(b"UNLINK", *wakes)
                    await connection.send_packed_command([command], check_health=False)
        finally:
            await connection.disconnect(nowait=True)
            for reader in readers:
                await reader.close()
