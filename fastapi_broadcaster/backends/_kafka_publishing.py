"""How `kafka://` publishes: one producer, which the broker keeps from writing anything twice."""

import asyncio
from collections.abc import Sequence

from fastapi_broadcaster.backends import _kafka_driver as driver
from fastapi_broadcaster.backends._kafka_cluster import Cluster
from fastapi_broadcaster.backends._kafka_driver import Producer, Records
from fastapi_broadcaster.backends._kafka_log import Naming
from fastapi_broadcaster.backends._kafka_server import Server
from fastapi_broadcaster.backends.base import Outcome
from fastapi_broadcaster.exceptions import (
    BackendError,
    BackendUnavailableError,
    ConnectionLostError,
    MessageTooLargeError,
)
from fastapi_broadcaster.messages import Message

_PATIENCE = 0.5  # seconds for what is on its way when the producer is closed


class TooLargeForTopic(MessageTooLargeError, BackendError):
    """The broker takes no message of that size in this topic (`max.message.bytes`)."""


class Publishing:
    """Sends batches, one at a time, each message to the topic of its channel."""

    def __init__(
        self, server: Server, naming: Naming, cluster: Cluster, *, partitions: int
    ) -> None:
        self._server = server
        self._naming = naming
        self._cluster = cluster
        self._partitions = partitions
        self._producer: Producer | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._topics: dict[str, int] = {}  # how many partitions those have that we know of

    async def open(self) -> None:
        """Start a producer, if there is none; raises `ConnectionLostError`."""
        if self._producer is not None:
            return
        producer = self._server.producer()
        try:
            with self._server.errors():
                async with asyncio.timeout(self._server.timeout):
                    await producer.start()
        except BaseException:
            await driver.close_producer(producer, patience=0)
            raise
        self._producer = producer

    async def close(self) -> None:
        self._drop()
        if self._closing:
            await asyncio.wait(self._closing)

    def _drop(self) -> None:
        """Let go of the producer, and of what it has not delivered."""
        producer, self._producer = self._producer, None
        self._topics.clear()
        if producer is not None:
            closing = asyncio.create_task(
                driver.close_producer(producer, patience=_PATIENCE), name="broadcaster-kafka-drop"
            )
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        """See `Backend.publish`."""
        await self.ready()
        refused = await self._topics_of(messages)
        outcomes: list[Outcome] = [refused.get(message.channel) for message in messages]
        waiting = [at for at, outcome in enumerate(outcomes) if outcome is None]
        while waiting:
            held: list[int] = []
            results = await self._send([messages[at] for at in waiting])
            for at, result in zip(waiting, results, strict=True):
                if isinstance(result, _Held):
                    held.append(at)
                outcomes[at] = self._outcome(messages[at], result)
            if not any(isinstance(result, Exception) for result in results):
                break
            self._drop()  # what it sends behind a refused message is refused too
            resend = held and len(held) < len(waiting) and await self._renewed()
            waiting = held if resend else []
        return outcomes

    async def ready(self) -> None:
        """Have a producer and a broker; raises `ConnectionLostError` while nothing has left."""
        try:
            if not self._cluster.connected():
                await self._cluster.open()
        except BackendUnavailableError as error:
            raise ConnectionLostError(str(error)) from error
        await self.open()

    async def _renewed(self) -> bool:
        """Whether there is a producer again; if not the next call tells."""
        try:
            await self.ready()
        except ConnectionLostError:
            return False
        return True

    async def _topics_of(self, messages: Sequence[Message]) -> dict[str, BackendError]:
        """Know the topics of the messages, made where they are missing; the channels refused."""
        channels = {
            message.channel: topic
            for message in messages
            if (topic := self._naming.topic_of(message.channel)) not in self._topics
        }
        if not channels:
            return {}
        try:
            await self._know(list(dict.fromkeys(channels.values())))
        except ConnectionLostError:
            raise
        except BackendError as error:
            if len(channels) == 1:
                return dict.fromkeys(channels, error)
        refused: dict[str, BackendError] = {}
        for channel, topic in channels.items():
            try:
                if topic not in self._topics:
                    await self._know([topic])
            except ConnectionLostError:
                raise
            except BackendError as error:
                refused[channel] = error
        return refused

    async def _know(self, names: Sequence[str]) -> None:
        found = await self._cluster.ensure(names, partitions=self._partitions)
        self._topics.update({name: len(topic) for name, topic in found.items()})

    async def _send(self, messages: Sequence[Message]) -> list[Records | Exception]:
        """Hand messages to the producer, in order, and wait for what the broker says of each."""
        deadline = asyncio.get_running_loop().time() + self._server.timeout
        sent: list[asyncio.Future[Records | None] | Exception] = []
        late = BackendUnavailableError(f"{self._server} takes no messages at present")
        try:
            async with asyncio.timeout_at(deadline):
                for message in messages:
                    sent.append(await self._enqueue(message))
        except TimeoutError:
            if not any(isinstance(one, asyncio.Future) for one in sent):
                raise ConnectionLostError(str(late)) from None
        sent += [late] * (len(messages) - len(sent))
        futures = [one for one in sent if isinstance(one, asyncio.Future)]
        if futures:
            left = deadline - asyncio.get_running_loop().time()
            await asyncio.wait(futures, timeout=max(0.0, left))
        return [one if isinstance(one, Exception) else _result(one) for one in sent]

    async def _enqueue(self, message: Message) -> "asyncio.Future[Records | None] | Exception":
        if self._producer is None:
            return _Held()
        topic = self._naming.topic_of(message.channel)
        try:
            future = await self._producer.send(topic, message.data, message.channel.encode())
        except driver.TooLarge as error:
            return error
        except driver.KafkaError:
            return _Held()
        future.add_done_callback(_seen)
        return future

    def _outcome(self, message: Message, result: Records | Exception) -> Outcome:
        match result:
            case BackendError():
                return result
            case TimeoutError():
                return BackendUnavailableError(
                    f"{self._server} did not confirm within {self._server.timeout:g} s",
                    maybe_published=True,
                )
            case _Held():
                return BackendError(f"{self._server} takes no messages from this producer")
            case _ if isinstance(result, driver.TooLarge):
                return TooLargeForTopic(
                    f"{self._server} takes no message of {len(message.data):,} bytes in the topic "
                    f"{self._naming.topic_of(message.channel)!r} (max.message.bytes)"
                )
            case _ if isinstance(result, driver.Refusal):
                name = type(result).__name__.removesuffix("Error")
                return BackendError(f"{self._server} refused the message: {name}")
            case Exception():
                return BackendUnavailableError(
                    f"{self._server} did not confirm", maybe_published=True
                )
            case _:
                return self._position(message, result)

    def _position(self, message: Message, sent: Records) -> Outcome:
        """Where a message stands; in one of several partitions that tells too little."""
        known = self._topics.get(self._naming.topic_of(message.channel))
        return (str(sent.partition), sent.offset) if known == 1 and sent.offset >= 0 else None


class _Held(driver.KafkaError):  # type: ignore[misc,valid-type]  # without types it is any class
    """Not sent, or refused only for what was sent before it."""


def _result(future: "asyncio.Future[Records | None]") -> Records | Exception:
    if not future.done() or future.cancelled():
        return TimeoutError()
    if (error := future.exception()) is None:
        return future.result() or TimeoutError()
    return _Held() if isinstance(error, driver.OutOfSequence) else _plain(error)


def _plain(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(str(error))


def _seen(future: "asyncio.Future[Records | None]") -> None:
    """Take note of an error that nobody waits for any more."""
    if not future.cancelled():
        future.exception()
