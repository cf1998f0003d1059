"""One generation of `amqp-stream://`: a consumer per channel, each from where it was."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from itertools import count

from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelNotFoundEntity

from fastapi_broadcaster.backends._rabbitmq import QUIET, Link, Server, reason, when_closed, within
from fastapi_broadcaster.backends._rabbitmq_log import SILENCE, Pages, begun, message_of, offset_of
from fastapi_broadcaster.backends._rabbitmq_streams import Declaring, Standing, is_not_running
from fastapi_broadcaster.exceptions import (
    BackendError,
    BackendUnavailableError,
    ConnectionLostError,
)
from fastapi_broadcaster.messages import Gap, Message

_CREDIT = 200  # deliveries of a channel between two acknowledgements


class _Consumer:
    """One channel in one generation."""

    def __init__(self, channel: str, tag: str) -> None:
        self.channel = channel
        self.tag = tag
        self.early: list[Message] | None = []
        """What came before it was known where the channel stands."""


class Reader:
    """Hears streams, over one channel; the positions move with what is handed on."""

    def __init__(self, link: Link, declaring: Declaring, pages: Pages, standing: Standing) -> None:
        self._server: Server = link.server
        self._link = link
        self._settings = declaring.settings
        self._pages = pages
        self._positions = standing.positions
        self._refused = standing.refused
        self._declaring = declaring
        self._tags = count(1)
        self._consumers: dict[str, _Consumer] = {}
        self._of: dict[str, _Consumer] = {}
        self._heard: list[tuple[_Consumer, Message | Gap, int]] = []  # and the position behind it
        self._delivered = self._acknowledged = 0
        self._wake = asyncio.Event()
        self._last = time.monotonic()
        self._lost: BaseException | None = None
        self._watching: asyncio.Task[None] | None = None
        self._channel: AbstractChannel | None = None

    async def open(self) -> None:
        with self._server.errors():
            await self._declaring.open()
            channel = self._channel = await self._link.channel()
            await within(channel.basic_qos(prefetch_count=_CREDIT))
        channel.on_consumer_cancel_callbacks.add(self._cancelled)
        self._link.when_lost(self._lose)
        when_closed(channel, self._lose)
        self._watching = asyncio.create_task(self._watch(), name="broadcaster-rabbitmq-stream")

    async def close(self) -> None:
        self._lose(ConnectionResetError("the connection was closed"))
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await self._link.close()

    def _lose(self, error: BaseException) -> None:
        self._lost = self._lost or error
        self._wake.set()

    def _cancelled(self, frame: object) -> None:
        self._lose(ConnectionResetError("a stream was deleted or moved"))

    def _consuming(self) -> AbstractChannel:
        if self._lost is not None or self._channel is None:
            raise self._loss()
        return self._channel

    def _loss(self) -> ConnectionLostError:
        return ConnectionLostError(f"{self._server}: {reason(self._lost or OSError())}")

    async def _watch(self) -> None:
        """Notice a server, or a network, that is silent without closing the connection."""
        while self._lost is None:
            await asyncio.sleep(self._last + QUIET - time.monotonic())
            if time.monotonic() - self._last < QUIET:
                continue
            try:
                async with asyncio.timeout(QUIET):
                    await self._answer()
            except (BackendError, TimeoutError) as error:
                self._lose(error)

    async def _answer(self) -> None:
        """What the server had sent before this answer has been heard when it is here."""
        with self._server.errors():
            await within(self._consuming().basic_qos(prefetch_count=_CREDIT))
        self._last = time.monotonic()

    # -- channels that come and go ----------------------------------------------------------

    async def join(self, channels: Collection[str]) -> None:
        """Hear channels: the known ones from where they are, with proof, new ones from now on."""
        names = [channel for channel in channels if channel not in self._of]
        self._check_refused(names)
        with self._server.errors():
            await self._declaring.declare([self._settings.queue(name) for name in names])
        new: list[_Consumer] = []
        try:
            for name in names:
                new.append(await self._begin(name))
            await self._hear(new)
            while new:
                await self._settle(new[-1])
                new.pop()
        except BaseException:
            for consumer in new:
                self._forget(consumer)
            raise

    def _check_refused(self, names: Sequence[str]) -> None:
        """Leave out what cost a connection before."""
        for name in names:
            if (error := self._refused.get(name)) is not None:
                if len(names) == 1:
                    del self._refused[name]
                raise error

    async def _begin(self, channel: str) -> _Consumer:
        """Consume from the entry that was handed on last, or from the last block of entries."""
        position = self._positions.get(channel)
        start: str | int = "last" if position is None else max(position, 0)
        try:
            return await self._consume(channel, start)
        except ConnectionLostError:
            raise
        except BackendError as error:
            why = error.__cause__
            if isinstance(why, ChannelNotFoundEntity) or is_not_running(why):
                raise ConnectionLostError(str(error)) from error
            self._refused[channel] = error
            raise

    async def _consume(self, channel: str, start: str | int) -> _Consumer:
        consumer = self._of[channel] = _Consumer(channel, str(next(self._tags)))
        self._consumers[consumer.tag] = consumer
        try:
            with self._server.errors():
                await within(
                    self._consuming().basic_consume(
                        self._settings.queue(channel),
                        self._take,
                        consumer_tag=consumer.tag,
                        arguments={"x-stream-offset": start},
                    )
                )
        except BaseException:
            self._forget(consumer)
            raise
        return consumer

    async def _hear(self, consumers: Sequence[_Consumer]) -> None:
        """Have what is there for them now, at least the first block of entries."""
        await self._answer()
        for consumer in consumers:
            if not consumer.early:
                with self._server.errors():
                    queue = self._settings.queue(consumer.channel)
                    await begun(self._consuming(), queue, self._take)
        await self._answer()

    async def _settle(self, consumer: _Consumer) -> None:
        """Find out where the channel stands, by what has come until now."""
        assert consumer.early is not None
        channel, position = consumer.channel, self._positions.get(consumer.channel)
        if position is None:
            await self._skip(consumer, consumer.early)
            return
        if position >= 0 and not consumer.early:
            await asyncio.sleep(SILENCE)  # a copy on another server may be behind
            await self._answer()
        if position >= 0 and not consumer.early:
            await self._cancel(consumer)
            consumer = await self._consume(channel, "first")
            self._tell(consumer, Gap(channel, "reset"), -1)
            await self._answer()
        elif consumer.early and (first := offset_of(consumer.early[0])) > max(position, 0):
            self._tell(consumer, Gap(channel, "expired"), first - 1)
        early, consumer.early = consumer.early or [], None
        for message in early:
            self._tell(consumer, message, offset_of(message))

    async def _skip(self, consumer: _Consumer, early: list[Message]) -> None:
        """A new channel stands behind all that came until now."""
        seen = 0
        while len(early) - seen >= _CREDIT:
            seen = len(early)
            await self._acknowledge()
            await self._answer()
        self._positions[consumer.channel] = offset_of(early[-1]) if early else -1
        consumer.early = None

    async def leave(self, channels: Collection[str]) -> None:
        """Hear these no more."""
        for channel in channels:
            self._positions.pop(channel, None)
            if (consumer := self._of.get(channel)) is not None:
                await self._cancel(consumer)

    async def _cancel(self, consumer: _Consumer) -> None:
        self._forget(consumer)
        with self._server.errors():
            await within(self._consuming().basic_cancel(consumer.tag))

    def _forget(self, consumer: _Consumer) -> None:
        self._consumers.pop(consumer.tag, None)
        if self._of.get(consumer.channel) is consumer:
            del self._of[consumer.channel]

    # -- what is heard ----------------------------------------------------------------------

    async def _take(self, delivered: DeliveredMessage) -> None:
        self._last = time.monotonic()
        self._delivered = delivered.delivery_tag or 0
        tag = getattr(delivered.delivery, "consumer_tag", "")
        consumer = self._consumers.get(tag)
        if consumer is not None:
            message = message_of(consumer.channel, delivered)
            if consumer.early is None:
                self._tell(consumer, message, offset_of(message))
            else:
                consumer.early.append(message)

    def _tell(self, consumer: _Consumer, item: Message | Gap, position: int) -> None:
        self._heard.append((consumer, item, position))
        self._wake.set()

    async def _acknowledge(self) -> None:
        """Let the server send more."""
        if self._delivered > self._acknowledged:
            self._acknowledged = self._delivered
            with self._server.errors():
                await self._consuming().basic_ack(self._delivered, multiple=True, wait=False)

    async def batches(self) -> AsyncIterator[Sequence[Message | Gap]]:
        """Whatever has been heard since, until the connection is lost."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if batch := await self._proven():
                yield batch
            if self._lost is not None:
                raise self._loss()
            await self._acknowledge()

    async def _proven(self) -> list[Message | Gap]:
        """What was heard, with a gap where the log does not prove that an offset is but a hole.

        Ends in front of a hole that is not its first item: what comes before it is safe.
        """
        batch: list[Message | Gap] = []
        heard, self._heard = self._heard, []
        for at, (consumer, item, position) in enumerate(heard):
            channel = consumer.channel
            if not self._is_heard(consumer):
                continue  # it left meanwhile
            before = self._positions[channel]
            if isinstance(item, Message) and position <= before:
                continue
            if isinstance(item, Message) and position != before + 1:
                if batch:
                    self._heard[:0] = heard[at:]
                    self._wake.set()
                    return batch
                if not await self._holds(channel, before):
                    batch.append(Gap(channel, "expired"))
                if not self._is_heard(consumer):
                    batch.clear()
                    continue
            self._positions[channel] = position
            batch.append(item)
        return batch

    def _is_heard(self, consumer: _Consumer) -> bool:
        return self._of.get(consumer.channel) is consumer and consumer.channel in self._positions

    async def _holds(self, channel: str, position: int) -> bool:
        if position < 0:
            return False
        try:
            return await self._pages.holds(channel, position)
        except BackendUnavailableError as error:
            raise ConnectionLostError(str(error)) from error
