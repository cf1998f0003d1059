"""One generation of `amqp://`: an exclusive queue, which goes with its connection."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

from aiormq.abc import AbstractChannel, DeliveredMessage

from fastapi_broadcaster import _patterns
from fastapi_broadcaster.backends._rabbitmq import QUIET, Link, Server, reason, when_closed, within
from fastapi_broadcaster.exceptions import BackendError, ConnectionLostError
from fastapi_broadcaster.messages import Gap, Message

_CHUNK = 500  # bindings between two answers

Name = tuple[str, bool]
"""A channel or pattern, and whether it is a pattern."""


@dataclass(slots=True)
class Standing:
    """What this process hears, from one generation to the next."""

    live: set[Name] = field(default_factory=set[Name])
    were_live: set[Name] = field(default_factory=set[Name])
    """Live in an earlier generation, and not bound again yet."""

    def lost(self) -> None:
        self.were_live |= self.live
        self.live.clear()


class Listening:
    """A queue, its consumer, and the channel that binds it.

    Bindings have a channel of their own: the one of a refusal is closed by the server.
    """

    def __init__(
        self,
        link: Link,
        exchange: str,
        standing: Standing,
        declare: Callable[[Link], Awaitable[None]],
    ) -> None:
        self._server: Server = link.server
        self._link = link
        self._exchange = exchange
        self._standing = standing
        self._declare = declare
        self._told: set[Name] = set()  # whose gap was told before they were bound
        self._keys: Counter[str] = Counter()
        self._queue = ""
        self._binding: AbstractChannel | None = None
        self._heard: list[Message | Gap] = []
        self._wake = asyncio.Event()
        self._last = time.monotonic()
        self._lost: BaseException | None = None
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to consume; nothing is bound yet. Raises `ConnectionLostError`."""
        with self._server.errors():
            await self._declare(self._link)
            self._binding = await self._link.channel()
            channel = await self._link.channel()
            declared = await within(
                channel.queue_declare(
                    exclusive=True, auto_delete=True, arguments={"x-queue-type": "classic"}
                )
            )
            self._queue = declared.queue or ""
            channel.on_consumer_cancel_callbacks.add(self._cancelled)
            await within(channel.basic_consume(self._queue, self._take, no_ack=True))
        self._link.when_lost(self.lose)
        when_closed(channel, self.lose)
        self._watching = asyncio.create_task(self._watch(), name="broadcaster-rabbitmq")

    async def close(self) -> None:
        self.lose(ConnectionResetError("the connection was closed"))
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await self._link.close()

    def lose(self, error: BaseException) -> None:
        """End this generation."""
        self._lost = self._lost or error
        self._wake.set()

    def _cancelled(self, frame: object) -> None:
        self.lose(ConnectionResetError("the queue was deleted"))

    def _loss(self) -> ConnectionLostError:
        return ConnectionLostError(f"{self._server}: {reason(self._lost or OSError())}")

    # -- what is heard ----------------------------------------------------------------------

    async def _take(self, delivered: DeliveredMessage) -> None:
        self._last = time.monotonic()
        channel = delivered.routing_key or ""
        if self._standing.were_live:
            self._tell_early(channel)
        self._heard.append(Message(channel, delivered.body))
        self._wake.set()

    def _tell_early(self, channel: str) -> None:
        """A message came before the answer to the binding that it came by: the gap is before it."""
        self._tell_gap((channel, False))
        for name in self._standing.were_live:
            if name[1] and _patterns.matches(name[0], channel):
                self._tell_gap(name)

    def _tell_gap(self, name: Name) -> None:
        if name in self._standing.were_live and name not in self._told:
            self._told.add(name)
            self._heard.append(Gap(name[0], "reconnected"))
            self._wake.set()

    async def batches(self) -> AsyncIterator[Sequence[Message | Gap]]:
        """Whatever has been heard since, until the connection is lost."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._heard = self._heard, []
            if batch:
                yield batch
            if self._lost is not None:
                raise self._loss()

    async def _watch(self) -> None:
        """Notice a server, or a network, that is silent without closing the connection."""
        while self._lost is None:
            await asyncio.sleep(self._last + QUIET - time.monotonic())
            if time.monotonic() - self._last < QUIET:
                continue
            try:
                async with asyncio.timeout(QUIET):
                    with self._server.errors():
                        channel = await self._binder()
                        await channel.exchange_declare(self._exchange, passive=True)
            except (BackendError, TimeoutError) as error:
                self.lose(error)
            self._last = time.monotonic()

    # -- what is bound ----------------------------------------------------------------------

    async def _binder(self) -> AbstractChannel:
        if self._lost is not None:
            raise self._loss()
        if self._binding is None or self._binding.is_closed:
            self._binding = await self._link.channel()
        return self._binding

    async def bind(self, names: Collection[Name]) -> None:
        """Hear these; raises `BackendError` if one is refused, and then none of them is live."""
        await self._bind_again()
        await self._bind([name for name in names if name not in self._standing.live])

    async def _bind_again(self) -> None:
        """Bind the patterns of before first, wide ones before narrow ones.

        Else a message would come by another binding before theirs, in front of the gap.
        """
        patterns = [name for name in self._standing.were_live if name[1]]
        if patterns:
            await self._bind(sorted(patterns, key=lambda name: len(key_of(name))))

    async def _bind(self, names: Sequence[Name]) -> None:
        keys = dict.fromkeys(key for name in names if not self._keys[key := key_of(name)])
        new = list(keys)
        with self._server.errors():
            for at in range(0, len(new), _CHUNK):
                channel = await self._binder()
                await within(self._bind_keys(channel, new[at : at + _CHUNK]))
        self._keys.update(key_of(name) for name in names)
        for name in names:
            self._tell_gap(name)
            self._standing.live.add(name)
            self._standing.were_live.discard(name)

    async def _bind_keys(self, channel: AbstractChannel, keys: Sequence[str]) -> None:
        """In one go: the answer to the last one is the answer to all."""
        for key in keys[:-1]:
            await channel.queue_bind(self._queue, self._exchange, key, nowait=True)
        await channel.queue_bind(self._queue, self._exchange, keys[-1])

    async def unbind(self, names: Collection[Name]) -> None:
        """Hear these no more; a key that others need stays."""
        for name in names:
            self._standing.were_live.discard(name)
            if name in self._standing.live:
                self._standing.live.discard(name)
                await self._unbind(key_of(name))

    async def _unbind(self, key: str) -> None:
        self._keys[key] -= 1
        if not self._keys[key]:
            del self._keys[key]
            with self._server.errors():
                channel = await self._binder()
                await within(channel.queue_unbind(self._queue, self._exchange, key))


def key_of(name: Name) -> str:
    """What to bind: of a pattern the words before the first glob, then all that follows."""
    text, is_pattern = name
    if not is_pattern or _patterns.is_literal(text):
        return text
    words: list[str] = []
    for word in text.split("."):
        if not _patterns.is_literal(word):
            break
        words.append(word)
    return ".".join([*words, "#"])
