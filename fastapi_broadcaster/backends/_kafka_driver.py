"""aiokafka, which ships no types, as far as the Kafka backend uses it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import aiokafka  # type: ignore[import-untyped]  # ships no types
import aiokafka.conn  # type: ignore[import-untyped]  # ships no types
import aiokafka.errors  # type: ignore[import-untyped]  # ships no types
import aiokafka.protocol.admin  # type: ignore[import-untyped]  # ships no types
import aiokafka.protocol.metadata  # type: ignore[import-untyped]  # ships no types
import aiokafka.protocol.offset  # type: ignore[import-untyped]  # ships no types

from fastapi_broadcaster.backends._driver_logs import quieten

_aiokafka: Any = aiokafka
_errors: Any = _aiokafka.errors
_protocol: Any = _aiokafka.protocol

KafkaError: type[Exception] = _errors.KafkaError
AuthenticationFailed: type[Exception] = _errors.SaslAuthenticationFailed
MechanismRefused: type[Exception] = _errors.UnsupportedSaslMechanismError
NoSaslHere: type[Exception] = _errors.IllegalSaslStateError
Refusal: type[Exception] = _errors.BrokerResponseError
OffsetOutOfRange: type[Exception] = _errors.OffsetOutOfRangeError
OutOfSequence: type[Exception] = _errors.OutOfOrderSequenceNumber
TooLarge: tuple[type[Exception], ...] = (
    _errors.MessageSizeTooLargeError,
    _errors.RecordListTooLargeError,
)
LOST: tuple[type[Exception], ...] = (KafkaError, OSError, TimeoutError)
TRANSIENT: tuple[type[Exception], ...] = (
    _errors.UnknownTopicOrPartitionError,
    _errors.LeaderNotAvailableError,
    _errors.NotLeaderForPartitionError,
    _errors.ReplicaNotAvailableError,
    _errors.KafkaStorageError,
    _errors.NotControllerError,
)
"""What a broker answers while topics are being made or move to another one."""


class TopicPartition(NamedTuple):
    """Equal to aiokafka's own."""

    topic: str
    partition: int


class Record(Protocol):
    """A record as a consumer hands it out; `timestamp` in milliseconds since 1970."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


class Records(Protocol):
    """Records of one partition that a producer has sent, as the broker confirms one of them."""

    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...


class Consumer(Protocol):
    """An `AIOKafkaConsumer` without a group."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def topics(self) -> set[str]: ...
    def assign(self, partitions: list[Any]) -> None: ...
    def assignment(self) -> set[TopicPartition]: ...
    def seek(self, partition: Any, offset: int) -> None: ...
    def pause(self, *partitions: Any) -> None: ...
    async def position(self, partition: Any) -> int: ...
    async def getmany(
        self, *partitions: Any, timeout_ms: int = 0, max_records: int | None = None
    ) -> Mapping[TopicPartition, Sequence[Record]]: ...


class Producer(Protocol):
    """An `AIOKafkaProducer`; a message that it gave up has the result None."""

    @property
    def client(self) -> object: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def send(
        self, topic: str, value: bytes, key: bytes
    ) -> "asyncio.Future[Records | None]": ...


class Connection(Protocol):
    """A connection to one broker; `send` answers with the broker's own reply."""

    def send(self, request: Any) -> Awaitable[Any]: ...
    def connected(self) -> bool: ...
    def close(self) -> Any: ...


def partition_of(topic: str, partition: int) -> Any:
    """A partition in the driver's own type, which it insists on."""
    return _aiokafka.TopicPartition(topic, partition)


async def dial(
    host: str,
    port: int,
    *,
    timeout: float,
    security: Mapping[str, Any],
    on_close: Callable[[object, object], None],
) -> Connection:
    """Connect and authenticate, with the driver's own errors; `on_close` is for a later loss."""
    connection: Any = _aiokafka.conn.AIOKafkaConnection(
        host,
        port,
        client_id="fastapi-broadcaster",
        request_timeout_ms=round(timeout * 1000),
        on_close=on_close,
        **security,
    )
    try:
        await connection.connect()
    except BaseException:
        if connection._protocol is not None:  # there was a socket
            await hang_up(connection)
        raise
    made: Connection = connection
    return made


async def hang_up(connection: Connection) -> None:
    """Close, and wait until the socket is."""
    closing = connection.close()
    if closing is not None:
        await asyncio.wait([closing], timeout=1.0)


def consumer(servers: Sequence[str], *, timeout: float, security: Mapping[str, Any]) -> Consumer:
    """A consumer of partitions that are assigned by hand; it never moves by itself."""
    made: Consumer = _aiokafka.AIOKafkaConsumer(
        bootstrap_servers=list(servers),
        client_id="fastapi-broadcaster",
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        fetch_max_wait_ms=50,
        request_timeout_ms=round(timeout * 1000),
        retry_backoff_ms=20,
        **security,
    )
    return made


class _NoTransaction:
    """Waits for the end of none; with None instead the driver crashes over an error of its own."""

    def done(self) -> bool:
        return False

    def set_exception(self, _: BaseException) -> None:
        pass


def producer(servers: Sequence[str], *, timeout: float, security: Mapping[str, Any]) -> Producer:
    """A producer that the broker keeps from writing a message twice."""
    made: Any = _aiokafka.AIOKafkaProducer(
        bootstrap_servers=list(servers),
        client_id="fastapi-broadcaster",
        acks="all",
        enable_idempotence=True,
        max_request_size=_MOST,
        request_timeout_ms=round(timeout * 1000),
        **security,
    )
    made._txn_manager._transaction_waiter = _NoTransaction()
    ready: Producer = made
    return ready


_MOST = 1 << 30  # bytes: how large a message may be is for the broker to say


async def close_consumer(made: Consumer) -> None:
    """Stop a consumer, all of it, also when the caller is cancelled meanwhile."""

    async def stop() -> None:
        await asyncio.sleep(0)  # it cannot stop tasks that have not begun
        driver: Any = made
        try:
            await made.stop()
        except asyncio.CancelledError:  # of a task of its own: it then stops half way
            await driver._client.close()

    await _to_the_end(asyncio.create_task(stop()))


async def close_producer(made: Producer, *, patience: float) -> None:
    """Stop a producer; what it could not deliver within `patience` seconds it lets go of."""

    async def stop() -> None:
        client: Any = made.client
        stopping = asyncio.create_task(made.stop())
        done, _ = await asyncio.wait([stopping], timeout=patience)
        if not done:
            _give_up(made)
            await client.close()
            if client._md_update_fut is None:  # whoever asks for one later would wait for ever
                client._md_update_fut = asyncio.get_running_loop().create_future()
            if not client._md_update_fut.done():
                client._md_update_fut.set_result(False)  # nobody else does any more
            await asyncio.wait([stopping])
        if stopping.exception() is not None:
            await client.close()

    await _to_the_end(asyncio.create_task(stop()))


def _give_up(made: Producer) -> None:
    """Tell whoever waits for a message that nothing is known of it: there is no other way out."""
    driver: Any = made
    kept: Any = driver._message_accumulator
    kept._pending_batches.update(batch for queue in kept._batches.values() for batch in queue)
    for batch in list(kept._pending_batches):
        batch.done_noack()


async def _to_the_end(task: "asyncio.Task[None]") -> None:
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def metadata(topics: Sequence[str] | None) -> Any:
    """Ask about topics, None for all; asking makes none."""
    names = None if topics is None else list(topics)
    return _protocol.metadata.MetadataRequest(names, False)


def new_topics(
    names: Iterable[str], *, partitions: int, config: Mapping[str, str], timeout: float
) -> Any:
    """Ask for new topics, with as many replicas as the broker makes by default."""
    wanted: list[Any] = [(name, partitions, -1, [], list(config.items())) for name in names]
    return _protocol.admin.CreateTopicsRequest(wanted, round(timeout * 1000), False)


def offsets(wanted: Mapping[str, Sequence[tuple[int, int]]]) -> Any:
    """Ask for (partition, milliseconds since 1970, or EARLIEST or LATEST) of topics."""
    return _protocol.offset.OffsetRequest(-1, 0, list(wanted.items()))


EARLIEST, LATEST = -2, -1


def error_of(code: int) -> Exception | None:
    """The driver's error for a code in a reply."""
    if code == 0:
        return None
    kind: Callable[[], Exception] = _errors.for_code(code)
    return kind()


class _NoSecrets(logging.Filter):
    """Keeps what is sent to authenticate out of the driver's debug log."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "SaslAuthenticate" not in record.getMessage()


logging.getLogger("aiokafka.conn").addFilter(_NoSecrets())
quieten(
    "aiokafka",
    "aiokafka.cluster",
    "aiokafka.conn",
    "aiokafka.consumer.fetcher",
    "aiokafka.producer.sender",
)
