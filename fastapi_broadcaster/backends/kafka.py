"""`kafka://`: a topic per channel, or `?topic=` for many channels in one; the topic is the log.

A record's value is the message as it is. Without `?topic=` a record of any key is read; with it
the key (or a header `channel`) names the channel. Nothing is kept in Kafka about readers: each
process has a consumer without a group, which reads from where this process stands.
"""

import ssl
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from urllib.parse import parse_qsl, unquote, urlsplit

from fastapi_broadcaster.backends._kafka_cluster import Cluster
from fastapi_broadcaster.backends._kafka_listening import Listening
from fastapi_broadcaster.backends._kafka_log import Naming, format_id, is_topic, parse_id
from fastapi_broadcaster.backends._kafka_pages import Pages
from fastapi_broadcaster.backends._kafka_publishing import Publishing
from fastapi_broadcaster.backends._kafka_security import Security
from fastapi_broadcaster.backends._kafka_server import Server
from fastapi_broadcaster.backends._kafka_standing import Standing
from fastapi_broadcaster.backends.base import HistoryBackend, Outcome, PatternBackend
from fastapi_broadcaster.exceptions import BackendUnavailableError, ConnectionLostError
from fastapi_broadcaster.messages import Cursor, Gap, Message

_PORT = 9092
_NUMBERS = ("scan", "partitions")
_TEXTS = (
    "topic",
    "security_protocol",
    "sasl_mechanism",
    "ssl_cafile",
    "ssl_capath",
    "ssl_certfile",
    "ssl_keyfile",
)
_TOPIC_CONFIG = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": "1114112"}


def from_url(url: str) -> "KafkaBackend":
    """`kafka://host_1:9092,host_2:9092?topic=events&security_protocol=SASL_SSL`."""
    parts = urlsplit(url)
    options: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name in _TEXTS:
            options[name] = text
        elif name in _NUMBERS and text.isdigit():
            numbers[name] = int(text)
        elif name in _NUMBERS:
            raise ValueError(f"kafka://: {name} must be a number")
        else:
            known = ", ".join([*_NUMBERS, *_TEXTS])
            raise ValueError(f"kafka://: unknown option {name!r} in the URL; there are {known}")
    if parts.path not in ("", "/") or parts.fragment:
        raise ValueError(
            "kafka://: behind the hosts come only options, as in kafka://host:9092?topic=events; "
            "a / ? or # in the user or password must be percent-encoded"
        )
    user, _, hosts = parts.netloc.rpartition("@")
    if user:
        username, _, password = user.partition(":")
        options |= {"username": unquote(username), "password": unquote(password)}
    return KafkaBackend(hosts or "localhost", **options, **numbers)  # type: ignore[arg-type]  # named above


class KafkaBackend(HistoryBackend, PatternBackend):
    """Keeps what Kafka's own retention keeps; ids tell `partition:offset`.

    `servers` is `host:port` of one or several brokers, with commas between. A topic that is
    missing is made with one partition (the one of `topic` with `partitions`), the broker's own
    number of replicas, and the settings of `topic_config`. In a topic of several partitions order
    is per partition, history and pages go by the records' time, and `publish` returns no id.

    With `topic`, at most `scan` records of a partition are looked through for history; whoever was
    away for longer gets a gap.

    How to log in is read from the arguments, then from KAFKA_SECURITY_PROTOCOL,
    KAFKA_SASL_MECHANISM, KAFKA_PLAIN_USERNAME, KAFKA_PLAIN_PASSWORD, KAFKA_SSL_CAFILE,
    KAFKA_SSL_CAPATH, KAFKA_SSL_CERTFILE, KAFKA_SSL_KEYFILE and KAFKA_SSL_KEY_PASSWORD.
    `ssl_context` is used as it is, instead of the files. `timeout` is in seconds, for each answer.

    Not noticed is that others delete a topic and make it anew, if by then the new one is longer
    than what was read of the old one.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        topic: str | None = None,
        scan: int = 100_000,
        partitions: int = 1,
        topic_config: Mapping[str, str] | None = None,
        timeout: float = 5.0,
        security_protocol: str | None = None,
        sasl_mechanism: str | None = None,
        username: str | None = None,
        password: str | None = None,
        ssl_cafile: str | None = None,
        ssl_capath: str | None = None,
        ssl_certfile: str | None = None,
        ssl_keyfile: str | None = None,
        ssl_key_password: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if scan < 1 or partitions < 1 or timeout <= 0:
            raise ValueError("kafka://: scan, partitions and timeout must be positive")
        if topic is not None and (not topic or not is_topic(topic)):
            raise ValueError(f"kafka://: {topic!r} cannot be a topic")
        security = Security.of(
            ssl_context,
            protocol=security_protocol,
            mechanism=sasl_mechanism,
            username=username,
            password=password,
            cafile=ssl_cafile,
            capath=ssl_capath,
            certfile=ssl_certfile,
            keyfile=ssl_keyfile,
            key_password=ssl_key_password,
        )
        config = {**_TOPIC_CONFIG, **(topic_config or {})}
        self._server = Server(_hosts(servers), security, timeout=timeout, topic_config=config)
        self._naming = Naming(topic)
        self.own_positions = topic is None
        self._scan = scan
        self._partitions = partitions if topic is not None else 1
        self._standing = Standing(self._naming)
        self._listening: Listening | None = None
        self._running: _Running | None = None

    def __str__(self) -> str:
        return str(self._server)

    def check_name(self, name: str) -> None:
        self._naming.check(name)

    async def connect(self) -> None:
        running = _Running(self._server, self._naming, self._scan, self._partitions)
        try:
            await running.cluster.open()
            await running.publishing.open()
        except ConnectionLostError as error:
            await running.close()
            raise BackendUnavailableError(str(error)) from error
        except BaseException:
            await running.close()
            raise
        self._running = running

    async def disconnect(self) -> None:
        running, self._running = self._running, None
        self._standing = Standing(self._naming)
        if running is not None:
            await running.close()

    async def reach(self) -> None:
        await self._publishing().ready()

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        return await self._publishing().publish(messages)

    def _publishing(self) -> Publishing:
        if self._running is None:
            raise ConnectionLostError(f"{self} is not connected")
        return self._running.publishing

    # -- listening --------------------------------------------------------------------------

    def _current(self) -> Listening:
        if self._listening is None:
            raise ConnectionLostError(f"{self} is not connected")
        return self._listening

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, Cursor]:
        return await self._current().join(channels)

    async def unsubscribe(self, channels: Collection[str]) -> None:
        self._leave(channels, ())

    async def psubscribe(self, patterns: Collection[str]) -> None:
        await self._current().pjoin(patterns)

    async def punsubscribe(self, patterns: Collection[str]) -> None:
        self._leave((), patterns)

    def _leave(self, channels: Collection[str], patterns: Collection[str]) -> None:
        self._standing.leave(channels, patterns)
        if self._listening is not None:
            self._listening.leave()

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        listening = Listening(self._server, self._standing)
        try:
            try:
                await listening.open()
            except BackendUnavailableError as error:
                raise ConnectionLostError(str(error)) from error
            self._listening = listening
            yield ()
            while True:
                if batch := await listening.read():
                    yield batch
        finally:
            self._listening = None
            await listening.close()

    # -- the log ----------------------------------------------------------------------------

    async def history(
        self,
        channel: str,
        *,
        after: Cursor | None = None,
        before: Cursor | None = None,
        since: datetime | None = None,
        limit: int,
    ) -> list[Message]:
        if self._running is None:
            raise BackendUnavailableError(f"{self} is not connected")
        try:
            return await self._running.pages.read(
                channel, after=after, before=before, since=since, limit=limit
            )
        except ConnectionLostError as error:
            raise BackendUnavailableError(str(error)) from error

    def parse(self, id: str) -> Cursor:
        return parse_id(id)

    def format(self, cursor: Cursor) -> str:
        return format_id(cursor)


class _Running:
    """What lives from `connect` to `disconnect`."""

    def __init__(self, server: Server, naming: Naming, scan: int, partitions: int) -> None:
        self.cluster = Cluster(server)
        self.publishing = Publishing(server, naming, self.cluster, partitions=partitions)
        self.pages = Pages(server, naming, self.cluster, scan=scan)

    async def close(self) -> None:
        await self.publishing.close()
        await self.pages.close()
        await self.cluster.close()


def _hosts(servers: str | Sequence[str]) -> list[tuple[str, int]]:
    """`host:port` of each broker; the port may be missing, an IPv6 address is in brackets."""
    found: list[tuple[str, int]] = []
    for one in servers.split(",") if isinstance(servers, str) else servers:
        place = one.strip().removeprefix("kafka://")
        host, colon, port = place.rpartition(":")
        if not colon or place.endswith("]"):
            host, port = place, str(_PORT)
        if not host or not port.isdigit():
            raise ValueError(f"kafka://: {one!r} is not host:port")
        found.append((host.removeprefix("[").removesuffix("]"), int(port)))
    return found
