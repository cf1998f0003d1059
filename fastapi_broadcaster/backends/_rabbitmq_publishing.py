"""How the RabbitMQ backends publish: in order, and all confirms of a batch at once."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

from aiormq.abc import AbstractChannel
from aiormq.channel import Channel
from aiormq.exceptions import (
    AMQPChannelError,
    ChannelInvalidStateError,
    DeliveryError,
    PublishError,
)
from pamqp.commands import Basic

from fastapi_broadcaster.backends._rabbitmq import REPLY, Link, Server, is_cancelled, reason
from fastapi_broadcaster.backends.base import Outcome
from fastapi_broadcaster.exceptions import (
    BackendError,
    BackendUnavailableError,
    ConnectionLostError,
    MessageTooLargeError,
)

_MOST = 10_000  # keys that are remembered


@dataclass(slots=True, frozen=True, kw_only=True)
class Letter:
    """A message as RabbitMQ takes it."""

    data: bytes
    key: str
    exchange: str = ""
    mandatory: bool = False
    """Come back if there is no queue for it."""
    properties: Basic.Properties | None = None


class Fate(Enum):
    """What became of a letter that was neither accepted nor refused."""

    RETURNED = "there is no queue for it"
    UNSENT = "it never left"


Result = Outcome | Fate


class TooLargeError(MessageTooLargeError, BackendError):
    """The server takes no messages of that size."""


class Publishing:
    """One connection and one channel with confirms, made anew after a loss.

    `prepare` sees to what must be there before a channel publishes; `refused` is told why the
    server closed one.
    """

    def __init__(
        self,
        server: Server,
        prepare: Callable[[Link], Awaitable[None]],
        refused: Callable[[AMQPChannelError], None] = lambda refusal: None,
    ) -> None:
        self._server = server
        self._prepare = prepare
        self._refused = refused
        self._link: Link | None = None
        self._channel: AbstractChannel | None = None
        self._confirmed: set[tuple[str, str]] = set()  # exchanges and keys
        self._largest = 0

    async def open(self) -> None:
        """Raises `BackendUnavailableError`."""
        self._link = await self._server.open()
        try:
            await self._open_channel(self._link)
        except BaseException as error:
            await self._drop()
            if isinstance(error, ConnectionLostError):
                raise BackendUnavailableError(str(error)) from error
            raise

    async def close(self) -> None:
        link, self._link, self._channel = self._link, None, None
        if link is not None:
            await link.close()

    async def _open_channel(self, link: Link) -> AbstractChannel:
        with self._server.errors():
            await self._prepare(link)
            channel = await link.channel(confirms=True)
        self._channel = channel
        return channel

    async def ready(self) -> AbstractChannel:
        """A channel that is not known to be dead; raises `ConnectionLostError`."""
        if self._channel is not None and not self._channel.is_closed:
            return self._channel
        if self._link is None or not self._link.is_open:
            await self._drop()
            self._link = await self._server.reopen()
        return await self._open_channel(self._link)

    async def _drop(self) -> None:
        link, self._link, self._channel = self._link, None, None
        if link is not None:
            await link.abort()

    async def send(self, letters: Sequence[Letter]) -> list[Result]:
        """Send in order, and wait until the server has said what became of each.

        Raises `ConnectionLostError` when surely nothing has left.
        """
        results: list[Result] = [Fate.UNSENT] * len(letters)
        waiting = list(range(len(letters)))
        while waiting:
            try:
                channel = await self.ready()
            except ConnectionLostError:
                if len(waiting) == len(letters):
                    raise
                break
            group = self._together(letters, waiting)
            answers = await self._exchange(channel, [letters[at] for at in group])
            refusal = next((one for one in answers if isinstance(one, AMQPChannelError)), None)
            if refusal is not None:
                self._refused(refusal)
                await self._drop()  # it closes all of it when more comes for a closed channel
                answers = self._blame(refusal, answers, [letters[at] for at in group])
            for at, answer in zip(group, answers, strict=True):
                results[at] = self._result(letters[at], answer)
            if refusal is None and any(results[at] is Fate.UNSENT for at in group):
                break
            waiting = [at for at in waiting if results[at] is Fate.UNSENT]
        if letters and all(result is Fate.UNSENT for result in results):
            raise ConnectionLostError(f"{self._server} was lost before anything had left")
        return [self._told(result) for result in results]

    def _together(self, letters: Sequence[Letter], waiting: Sequence[int]) -> Sequence[int]:
        """Those that are sent at once: what may be refused goes alone.

        A refusal closes the channel, and what was sent before it and not confirmed yet would remain
        in doubt.
        """
        for count, at in enumerate(waiting):
            letter = letters[at]
            known = not letter.exchange or (letter.exchange, letter.key) in self._confirmed
            if not known or len(letter.data) > self._largest:
                return waiting[: count or 1]
        return waiting

    def _told(self, result: Result) -> Result:
        if result is Fate.UNSENT:
            return BackendUnavailableError(f"{self._server} was lost before the message had left")
        return result

    async def _exchange(self, channel: AbstractChannel, letters: Sequence[Letter]) -> list[Any]:
        """The driver's answer, or error, for each."""
        sends = [self._send(channel, letter) for letter in letters]
        try:
            async with asyncio.timeout(REPLY):
                if len(sends) == 1:
                    return [await _caught(sends[0])]
                return await asyncio.gather(*sends, return_exceptions=True)
        except TimeoutError:
            await self._drop()
            return [
                BackendUnavailableError(
                    f"{self._server} did not confirm within {REPLY:g} s", maybe_published=True
                )
                for _ in letters
            ]

    async def _send(self, channel: AbstractChannel, letter: Letter) -> Any:
        return await cast(Channel, channel).basic_publish(
            letter.data,
            exchange=letter.exchange,
            routing_key=letter.key,
            mandatory=letter.mandatory,
            properties=letter.properties,
            wait=False,  # for the socket: the confirm is waited for
        )

    def _result(self, letter: Letter, answer: Any) -> Result:
        match answer:
            case Fate() | BackendError():
                return answer
            case PublishError():
                return Fate.RETURNED
            case DeliveryError():
                return BackendError(f"{self._server} refused the message")
            case ChannelInvalidStateError():
                return Fate.UNSENT
            case BaseException():
                return BackendUnavailableError(
                    f"{self._server} was lost before it confirmed: {reason(answer)}",
                    maybe_published=True,
                )
            case _:
                self._largest = max(self._largest, len(letter.data))
                if letter.exchange:
                    self._remember(letter)
                return None

    def _remember(self, letter: Letter) -> None:
        if len(self._confirmed) >= _MOST:
            self._confirmed.clear()
        self._confirmed.add((letter.exchange, letter.key))

    def _blame(
        self, refusal: AMQPChannelError, answers: Sequence[Any], letters: Sequence[Letter]
    ) -> list[Any]:
        """Find the letter that the server closed the channel for; those behind it never counted."""
        blamed = list(answers)
        is_open = [at for at, one in enumerate(answers) if isinstance(one, AMQPChannelError)]
        text = reason(refusal)
        limit = re.search(r"message size \d+ \w+ larger than.*?(\d+)", text)
        for at in is_open:
            letter = letters[at]
            if limit is not None and len(letter.data) > int(limit[1]):
                error: BackendError = TooLargeError(
                    f"{self._server} takes messages of at most {int(limit[1]):,} bytes, "
                    f"not {len(letter.data):,} (max_message_size)"
                )
            elif f"access to topic '{letter.key}' " in text or "access to exchange '" in text:
                error = BackendError(f"{self._server} refused the message: {text}")
            else:
                continue
            blamed[at] = error
            for later in is_open[is_open.index(at) + 1 :]:
                blamed[later] = Fate.UNSENT
            break
        return blamed


async def _caught(call: Awaitable[Any]) -> Any:
    """The result or error of a call, as `gather` gives it."""
    try:
        return await call
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        return error
    except Exception as error:
        return error
