"""Kafka's brokers: connections to ask them over, topics, and where their logs begin and end."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from fastapi_broadcaster.backends import _kafka_driver as driver
from fastapi_broadcaster.backends._kafka_driver import LOST, Connection, TopicPartition
from fastapi_broadcaster.backends._kafka_server import Server, address
from fastapi_broadcaster.exceptions import (
    BackendError,
    BackendUnavailableError,
    ConnectionLostError,
)

T = TypeVar("T")
_PAUSE = 0.01  # seconds between two looks for what is about to appear
_FAILED: tuple[type[Exception], ...] = (*LOST, ConnectionLostError)
_CHUNK = 500  # topics in one request
_EXISTS = 36
_ABSENT = 3
_MAY_NOT = (29, 31)  # topic, cluster: who may not make topics may still use them

Topic = dict[int, int]
"""The leader of each partition, -1 while there is none."""


class Cluster:
    """Connections to some of the brokers; `lost` is called when one of them breaks."""

    def __init__(
        self, server: Server, *, lost: Callable[[Exception], None] = lambda error: None
    ) -> None:
        self._server = server
        self._lost = lost
        self._hosts: dict[int, tuple[str, int]] = {}
        self._connections: dict[int, Connection] = {}
        self._controller = -1
        self._dialing = asyncio.Lock()
        self._closed = False

    def connected(self) -> bool:
        """Whether a connection stands, as far as one knows."""
        return any(connection.connected() for connection in self._connections.values())

    async def open(self) -> None:
        """Reach one of the brokers; raises `BackendUnavailableError`, which says why not."""
        self._closed = False
        failures: dict[str, BaseException] = {}
        hosts = dict.fromkeys([*self._server.hosts, *self._hosts.values()])
        for host, port in hosts:
            try:
                connection = await self._dial(host, port)
                try:
                    self._learn(await connection.send(driver.metadata([])))
                finally:
                    await driver.hang_up(connection)
                await self._connection(None)
                return
            except _FAILED as error:
                failures[address(host, port)] = error
        raise BackendUnavailableError(self._summary(failures)) from next(iter(failures.values()))

    def _summary(self, failures: Mapping[str, BaseException]) -> str:
        reasons = {where: self._server.security.explain(why) for where, why in failures.items()}
        if len(set(reasons.values())) == 1:
            return f"{self._server} is not reachable: {next(iter(reasons.values()))}"
        each = "; ".join(f"{where}: {why}" for where, why in reasons.items())
        return f"{self._server} is not reachable: {each}"

    async def close(self) -> None:
        self._closed = True
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            await driver.hang_up(connection)

    def _learn(self, response: Any) -> None:
        hosts = {broker[0]: (broker[1], broker[2]) for broker in response.brokers}
        self._hosts = (
            hosts or self._hosts
        )  # a broker that was frozen does not count itself at first
        self._controller = response.controller_id

    async def _dial(self, host: str, port: int) -> Connection:
        return await driver.dial(
            host,
            port,
            timeout=self._server.timeout,
            security=self._server.security.options,
            on_close=self._on_close,
        )

    def _on_close(self, connection: object, reason: object) -> None:
        if not self._closed and connection in self._connections.values():
            self._lost(ConnectionLostError(f"{self._server}: a broker closed the connection"))

    async def _connection(self, node: int | None) -> Connection:
        """A connection to that broker, or to any."""
        async with self._dialing:
            nodes = list(self._hosts) if node is None else [node]
            for one in nodes:
                connection = self._connections.get(one)
                if connection is not None and connection.connected():
                    return connection
            failure: Exception = ConnectionLostError(f"{self._server}: no broker is known")
            for one in nodes:
                if one in self._hosts:
                    try:
                        connection = await self._dial(*self._hosts[one])
                    except LOST as error:
                        failure = error
                        continue
                    if self._closed:
                        await driver.hang_up(connection)
                        break
                    self._connections[one] = connection
                    return connection
        with self._server.errors():
            raise failure

    async def ask(self, request: Any, node: int | None = None) -> Any:
        """Send a request and return the reply; raises `ConnectionLostError`."""
        connection = await self._connection(node)
        with self._server.errors():
            try:
                return await connection.send(request)
            except TimeoutError:
                self._connections = {
                    one: other
                    for one, other in self._connections.items()
                    if other is not connection
                }
                await driver.hang_up(connection)
                raise

    async def check(self, nodes: Collection[int]) -> None:
        """Hear from each of these brokers, or from any."""
        if not nodes:
            await self.ask(driver.metadata([]))
        for node in nodes:
            await self.ask(driver.metadata([]), node)

    # -- topics -----------------------------------------------------------------------------

    async def topics(self, names: Collection[str] | None) -> dict[str, Topic]:
        """Those of the topics that exist; None asks for all but Kafka's own."""
        found: dict[str, Topic] = {}
        for chunk in [None] if names is None else _chunks(list(names)):
            response = await self.ask(driver.metadata(chunk))
            self._learn(response)
            for code, topic, internal, partitions in response.topics:
                if code == 0 and not (names is None and internal):
                    found[topic] = {one[1]: one[2] for one in partitions}
                elif code not in (0, _ABSENT) and names is not None:
                    self._refuse(code, topic)
        return found

    def _refuse(self, code: int, topic: str) -> None:
        error = driver.error_of(code)
        if error is not None and not isinstance(error, driver.TRANSIENT):
            raise BackendError(f"{self._server} refuses the topic {topic!r}: {_text(error)}")

    async def ensure(self, names: Collection[str], *, partitions: int = 1) -> dict[str, Topic]:
        """The topics, made where they are missing; raises `BackendError` if one cannot be made."""
        found = await self.topics(names)
        missing = [name for name in names if name not in found]
        for chunk in _chunks(missing):
            await self._make(chunk, partitions)

        async def look() -> dict[str, Topic] | None:
            more = [name for name in names if name not in found or -1 in found[name].values()]
            if more:
                found.update(await self.topics(more))
            ready = all(name in found and -1 not in found[name].values() for name in more)
            return found if ready else None

        return await self._eventually(look, "the topics have no leader")

    async def _make(self, names: Sequence[str], partitions: int) -> None:
        request = driver.new_topics(
            names,
            partitions=partitions,
            config=self._server.topic_config,
            timeout=self._server.timeout,
        )
        node = self._controller if self._controller in self._hosts else None
        response = await self.ask(request, node)
        for topic, code, *why in response.topic_errors:
            error = driver.error_of(code)
            if code in (0, _EXISTS) or isinstance(error, driver.TRANSIENT):
                continue  # whether it was made is looked for
            if code in _MAY_NOT and topic in await self.topics([topic]):
                continue
            text = f"{_text(error)} {why[0] or ''}" if why else _text(error)
            raise BackendError(f"{self._server} did not make the topic {topic!r}: {text.strip()}")

    # -- offsets ----------------------------------------------------------------------------

    async def offsets(self, topics: Mapping[str, Topic], at: int) -> dict[TopicPartition, int]:
        """The offset of EARLIEST, LATEST, or the first record from a time in milliseconds on.

        There is none (-1) where every record is older.
        """
        leaders = topics

        async def look() -> dict[TopicPartition, int] | None:
            nonlocal leaders
            found = await self._offsets(leaders, at)
            if found is None:
                leaders = {**leaders, **await self.topics(leaders)}
            return found

        return await self._eventually(look, "the topics have no leader")

    async def _offsets(
        self, topics: Mapping[str, Topic], at: int
    ) -> dict[TopicPartition, int] | None:
        wanted: dict[int, dict[str, list[tuple[int, int]]]] = defaultdict(dict)
        for topic, partitions in topics.items():
            for partition, leader in partitions.items():
                if leader not in self._hosts:
                    return None
                wanted[leader].setdefault(topic, []).append((partition, at))
        found: dict[TopicPartition, int] = {}
        for leader, asked in wanted.items():
            response = await self.ask(driver.offsets(asked), leader)
            for topic, partitions in response.topics:
                for partition, code, _, offset in partitions:
                    error = driver.error_of(code)
                    if isinstance(error, driver.TRANSIENT):
                        return None
                    if error is not None:
                        raise BackendError(
                            f"{self._server} refuses the topic {topic!r}: {_text(error)}"
                        )
                    found[TopicPartition(topic, partition)] = offset
        return found

    async def _eventually(self, look: Callable[[], Awaitable[T | None]], otherwise: str) -> T:
        """What `look` finds, once it does."""
        deadline = asyncio.get_running_loop().time() + self._server.timeout
        while (found := await look()) is None:
            if asyncio.get_running_loop().time() > deadline:
                raise ConnectionLostError(f"{self._server}: {otherwise}")
            await asyncio.sleep(_PAUSE)
        return found


def _chunks(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[at : at + _CHUNK] for at in range(0, len(names), _CHUNK)]


def _text(error: Exception | None) -> str:
    return type(error).__name__.removesuffix("Error")
