"""How `redis-stream://` reads: one XREAD for up to 1,000 channels, and a key that wakes it."""

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection

from fastapi_broadcaster.backends._redis import ask, pack
from fastapi_broadcaster.backends._redis_log import (
    Facts,
    epoch_of,
    id_of,
    key_of,
    lost,
    message_of,
    ms_of,
    questions,
)
from fastapi_broadcaster.exceptions import ConnectionLostError
from fastapi_broadcaster.messages import Gap, Message

OURS = "fastapi-broadcaster:"  # behind the prefix, the names of our own keys begin so
WIDTH = 1_000  # channels in one XREAD
CHUNK = 250  # streams to ask about at once
_BLOCK = 4.0  # seconds until an XREAD that finds nothing returns
_PATIENCE = 3.0  # seconds that its reply may be late before the server counts as gone
_WAKE_TTL = b"60000"  # milliseconds; nobody removes the key of a process that was killed


@dataclass(slots=True, frozen=True, kw_only=True)
class Settings:
    """What all that read and write the streams must agree on."""

    prefix: str = ""
    maxlen: int = 10_000
    ttl: int | None = None
    """Milliseconds that a stream outlives its last message."""

    @property
    def count(self) -> int:
        """Entries of a channel in one page; fewer than `maxlen`: see `Reader`."""
        return min(64, self.maxlen)

    @property
    def epoch_key(self) -> bytes:
        return self.key(f"{OURS}epoch")

    def key(self, name: str) -> bytes:
        return (self.prefix + name).encode()


class Place:
    """Where this process stands in one channel; outlives connections."""

    __slots__ = ("channel", "key", "position", "wire")

    def __init__(self, channel: str, key: bytes) -> None:
        self.channel = channel
        self.key = key
        self.move(0)

    def move(self, position: int) -> None:
        self.position = position
        id = id_of(position)
        self.wire = b"$%d\r\n%b\r\n" % (len(id), id)


class Questions:
    """Asks a server about streams, over a connection that nobody else uses meanwhile."""

    def __init__(self, connection: AbstractConnection, settings: Settings, timeout: float) -> None:
        self.connection = connection
        self.over = False
        """Whether nobody hears any more what follows from the answers."""
        self._settings = settings
        self._timeout = timeout

    async def _ask(self, *commands: bytes) -> list[Any]:
        replies = await ask(self.connection, commands, self._timeout)
        if self.over:
            raise ConnectionLostError("the connection was closed")
        return replies

    async def _facts(self, places: Iterable[Place]) -> Facts:
        where = [(place.key, place.position) for place in places]
        return Facts.of(await self._ask(*questions(self._settings.epoch_key, where)))

    async def epoch(self) -> int:
        """The mark of this life of the server's data; makes one where there is none."""
        mark, key = secrets.token_hex(8).encode(), self._settings.epoch_key
        [found] = await self._ask(pack(b"GET", key))
        if found is None:
            [found] = await self._ask(pack(b"SET", key, mark, b"NX", b"GET"))
        if isinstance(found, Exception):
            raise found
        return epoch_of(mark if found is None else found)

    async def begin(self, places: Collection[Place]) -> None:
        """Move new places behind everything that was ever added."""
        facts = await self._facts(places)
        for place, state in zip(places, facts.states, strict=True):
            place.move(facts.start(state))

    async def prove(
        self, places: Collection[Place], *, epoch: int, heard: float
    ) -> dict[Place, Gap]:
        """Find the places behind which something may be lost, and move them to where to go on.

        All were read at `heard`, on the clock of `time.monotonic`, in that epoch.
        """
        facts = await self._facts(places)
        away = int((time.monotonic() - heard) * 1000)
        gaps: dict[Place, Gap] = {}
        for place, state in zip(places, facts.states, strict=True):
            same_life = facts.knows(place.position, epoch)
            reason = lost(
                place.position,
                state,
                facts.now,
                as_of=max(ms_of(place.position), facts.now - away),
                same_life=same_life,
                ttl=self._settings.ttl,
            )
            if reason is not None:
                gaps[place] = Gap(place.channel, reason)
                place.move(facts.kept(state, same_life=same_life))
        return gaps

    async def wake(self, keys: Iterable[bytes]) -> None:
        """Make readers begin anew, with the places that they have by now."""
        commands: list[bytes] = []
        for key in keys:
            commands.append(pack(b"XADD", key, b"MAXLEN", b"1", b"*", b"wake", b""))
            commands.append(pack(b"PEXPIRE", key, _WAKE_TTL))
        await self._ask(*commands)

    async def forget(self, keys: Iterable[bytes]) -> None:
        """Remove the keys of readers that are gone."""
        await self._ask(pack(b"UNLINK", *keys))


class Reader:
    """Hears up to 1,000 channels over one connection.

    A page that is not full proves that nothing was trimmed before it: a stream that was trimmed
    still holds `maxlen` entries, all of them newer, so the page would be full. Behind a full one
    the entry before it must still be there.
    """

    check_every = 30.0
    """Seconds between two looks for logs that were lost, or went backwards, in silence."""

    def __init__(
        self,
        questions: Questions,
        settings: Settings,
        *,
        epoch: int,
        tell: Callable[[Sequence[Message | Gap]], None],
        pause: Callable[[], float],
    ) -> None:
        self._questions = questions
        self._settings = settings
        self._epoch = epoch
        self._tell = tell
        self._pause = pause
        self.wake = Place("", settings.key(f"{OURS}wake:{secrets.token_hex(8)}"))
        self._places: dict[bytes, Place] = {self.wake.key: self.wake}
        self._fresh: set[Place] = set()  # came after the XREAD on its way had been sent
        self._head = b""  # the XREAD as far as it stays the same
        self.heard = self._checked = time.monotonic()

    def __len__(self) -> int:
        return len(self._places) - 1

    def add(self, places: Iterable[Place]) -> None:
        """Hear these from where they are; `wake` must follow, else it may take some seconds."""
        for place in places:
            self._places[place.key] = place
            self._fresh.add(place)
        self._head = b""

    def remove(self, place: Place) -> None:
        self._places.pop(place.key, None)
        self._fresh.discard(place)
        self._head = b""

    async def close(self) -> None:
        await self._questions.connection.disconnect(nowait=True)

    async def run(self) -> None:
        """Read until something fails."""
        epoch_now = pack(b"GET", self._settings.epoch_key)
        connection = self._questions.connection
        while True:
            commands = [self._command(), epoch_now]
            reply, epoch = await ask(connection, commands, _BLOCK + _PATIENCE)
            for one in (reply, epoch):
                if isinstance(one, Exception):
                    raise one
            if epoch_of(epoch) != self._epoch:
                raise ConnectionLostError("the server has lost its data")
            if reply:
                self._tell(await self._take(reply))
            self.heard = time.monotonic()
            if self.heard - self._checked >= self.check_every:
                await self._check()
            if pause := self._pause():
                await asyncio.sleep(pause)

    def _command(self) -> bytes:
        if not self._head:
            count = b"%d" % self._settings.count
            options = (b"BLOCK", b"%d" % (_BLOCK * 1000), b"COUNT", count)
            words = pack(b"XREAD", *options, b"STREAMS", *self._places).partition(b"\n")[2]
            self._head = b"*%d\r\n%b" % (6 + 2 * len(self._places), words)
        self._fresh.clear()
        return self._head + b"".join([place.wire for place in self._places.values()])

    async def _take(self, reply: Any) -> list[Message | Gap]:
        """The messages of a reply to XREAD, and a gap where some may be missing."""
        pages: Any = cast("Any", reply).items() if isinstance(reply, dict) else reply
        found: list[tuple[Place, list[Any]]] = [
            (place, entries)
            for key, entries in pages
            if (place := self._places.get(key)) is not None and place not in self._fresh
        ]
        full = [
            place
            for place, entries in found
            if len(entries) >= self._settings.count and place is not self.wake
        ]
        gaps = await self._prove(full) if full else {}
        items: list[Message | Gap] = []
        for place, entries in found:
            if self._places.get(place.key) is not place:
                continue  # it left meanwhile
            if place in gaps:
                items.append(gaps[place])
            if place is not self.wake:
                items += [message_of(place.channel, entry) for entry in entries]
            place.move(key_of(entries[-1][0]))
        return items

    async def _prove(self, places: Collection[Place]) -> dict[Place, Gap]:
        return await self._questions.prove(places, epoch=self._epoch, heard=self.heard)

    async def _check(self) -> None:
        self._checked = self.heard
        places = [place for place in self._places.values() if place is not self.wake]
        for at in range(0, len(places), CHUNK):
            gaps = await self._prove(places[at : at + CHUNK])
            self._tell([gap for place, gap in gaps.items() if self._places.get(place.key) is place])
