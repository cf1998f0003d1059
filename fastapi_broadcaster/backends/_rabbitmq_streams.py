"""What a stream queue of `amqp-stream://` is, and how it comes to be."""

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import (
    AMQPChannelError,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)

from fastapi_broadcaster.backends._rabbitmq import Link, is_missing, reason, within
from fastapi_broadcaster.exceptions import BackendError, ConnectionLostError

logger = logging.getLogger("fastapi_broadcaster")
_CHUNK = 100  # queues between two answers
_PATIENCE = 2.0  # seconds for a stream to run that another one makes, or that a restart brings back
_PAUSE = 0.05  # seconds between two attempts


@dataclass(slots=True, frozen=True, kw_only=True)
class Settings:
    """What all that read and write the streams must agree on."""

    prefix: str = ""
    max_bytes: int = 10_000_000
    max_age: int | None = None
    """Seconds."""
    segment_bytes: int | None = None

    def __post_init__(self) -> None:
        if min(self.max_bytes, self.max_age or 1, self.segment_bytes or 1) < 1:
            raise ValueError("amqp-stream://: max_bytes, max_age and segment_bytes are positive")

    def queue(self, channel: str) -> str:
        return self.prefix + channel

    @property
    def arguments(self) -> dict[str, Any]:
        """The server trims whole segments, so that they must be smaller than what is kept."""
        segment = self.segment_bytes or max(1_000, self.max_bytes // 8)
        age = {} if self.max_age is None else {"x-max-age": f"{self.max_age}s"}
        return {
            "x-queue-type": "stream",
            "x-max-length-bytes": self.max_bytes,
            "x-stream-max-segment-size-bytes": segment,
            **age,
        }


@dataclass(slots=True)
class Standing:
    """Where this process stands, from one generation to the next."""

    positions: dict[str, int] = field(default_factory=dict[str, int])
    """The offsets that were handed on last; -1 in an empty log."""
    refused: dict[str, BackendError] = field(default_factory=dict[str, BackendError])
    """Why the server closed the channel over a stream, until somebody was told."""


class NotRunningError(ConnectionLostError):
    """The stream is there, but does not run yet, or not now: as if the server were away."""


class Declaring:
    """Makes streams over a channel of its own, which the server closes with every refusal.

    `lock` is one for the process: the server says of a stream in the making that it is there.
    """

    def __init__(self, link: Link, settings: Settings, lock: asyncio.Lock) -> None:
        self._link = link
        self.settings = settings
        self._lock = lock
        self._channel: AbstractChannel | None = None

    async def open(self) -> AbstractChannel:
        """The channel, made anew after a refusal; with the driver's own errors."""
        if self._channel is None or self._channel.is_closed:
            self._channel = await self._link.channel()
        return self._channel

    async def declare(self, queues: Sequence[str]) -> None:
        """Make those that are missing; raises `BackendError`.

        One that is there and does not run, as after a restart of the server, counts as a lost
        connection: it may soon.
        """
        async with self._lock:
            for at in range(0, len(queues), _CHUNK):
                chunk = queues[at : at + _CHUNK]
                try:
                    await within(self._declare(await self.open(), chunk))
                except (ChannelPreconditionFailed, ChannelAccessRefused, ChannelNotFoundEntity):
                    for queue in chunk:
                        await self._declare_one(queue)

    async def declare_each(self, queues: Collection[str]) -> dict[str, BackendError]:
        """As `declare`, and for streams to run; returns why some cannot be made or do not run."""
        refusals: dict[str, BackendError] = {}
        deadline = time.monotonic() + _PATIENCE
        for queue in queues:
            while True:
                try:
                    with self._link.server.errors():
                        async with self._lock:
                            await self._declare_one(queue)
                        await self._check(queue)
                except NotRunningError as error:
                    refusals[queue] = error
                    if time.monotonic() < deadline:
                        await asyncio.sleep(_PAUSE)
                        continue
                except BackendError as error:
                    refusals[queue] = error
                else:
                    refusals.pop(queue, None)
                break
        return refusals

    async def _declare(self, channel: AbstractChannel, queues: Sequence[str]) -> None:
        """In one go: the answer to the last one is the answer to all."""
        arguments = self.settings.arguments
        for queue in queues[:-1]:
            await channel.queue_declare(queue, durable=True, arguments=arguments, nowait=True)
        await channel.queue_declare(queues[-1], durable=True, arguments=arguments)

    async def _declare_one(self, queue: str) -> None:
        """What exists with other limits, or may not be made by this user, is taken as it is."""
        try:
            await within(self._declare(await self.open(), [queue]))
        except ChannelNotFoundEntity as error:
            raise NotRunningError(f"{self._link.server}: {reason(error)}") from error
        except ChannelPreconditionFailed as error:
            await self._check(queue)
            logger.info("%s: %s keeps its limits: %s", self._link.server, queue, reason(error))
        except ChannelAccessRefused as error:
            try:
                channel = await self.open()
                await within(channel.queue_declare(queue, passive=True))
            except ChannelNotFoundEntity as absence:
                failure = BackendError if is_missing(absence) else NotRunningError
                raise failure(f"{self._link.server}: {reason(error)}") from absence

    async def _check(self, queue: str) -> None:
        """Only a stream can be consumed from an offset, and only one that runs."""
        channel = await self.open()
        await within(channel.basic_qos(prefetch_count=1))
        try:
            consumer = await within(
                channel.basic_consume(queue, _ignore, arguments={"x-stream-offset": "next"})
            )
        except ChannelPreconditionFailed as error:
            if is_not_running(error):
                raise NotRunningError(f"{self._link.server}: {reason(error)}") from error
            raise BackendError(
                f"{self._link.server}: the queue {queue!r} is there and is no stream: rename the "
                f"channel or set prefix= ({reason(error)})"
            ) from error
        await within(channel.basic_cancel(consumer.consumer_tag or ""))


def is_not_running(error: BaseException | None) -> bool:
    """Whether the server says that it could not begin to consume a stream, but may soon."""
    return isinstance(error, AMQPChannelError) and "replica" in reason(error)


async def _ignore(delivered: DeliveredMessage) -> None:
    """The consumer is only to be refused or not."""
