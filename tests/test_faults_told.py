"""Each fault of a server, a URL or a message, and what is said of it: the rows of docs/faults.md.

The page is the table that runs here, so that neither can say what the other does not.
"""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest
from redis.crc import key_slot

import fastapi_broadcaster
from fastapi_broadcaster import Broadcaster, BroadcasterError, Receipt
from fastapi_broadcaster.backends import SCHEMES
from servers import (
    Kafka,
    Postgres,
    RabbitMQ,
    Redis,
    RedisCluster,
    SecureKafka,
    Server,
    free_port,
)
from tests.conformance.tools import take
from tests.proxy import Proxy

PAGE = Path(__file__).resolve().parents[1] / "docs" / "faults.md"
WRONG = "wrong-secret"
LARGE = "x" * 2_000_000
ODD = "a:b/ü *?[c]"  # a name that a backend takes, if it takes all


ALICE = ("alice", "on", ">alice-secret", "~*", "&*", "+@all")


class OwnRedis(Redis):
    """Knows alice, and takes as little in one message as Redis can be told to."""

    def command(self) -> Sequence[str]:
        return [*super().command(), "--user", *ALICE, "--proto-max-bulk-len", "1mb"]


class OwnRedisCluster(RedisCluster):
    """As `OwnRedis`, each node of it."""

    @classmethod
    def private(cls) -> Self:
        return cls(options={"proto-max-bulk-len": "1mb"})

    def __enter__(self) -> Self:
        super().__enter__()
        for node in self.nodes:
            command = ("redis-cli", "-p", str(node.port), "acl", "setuser", *ALICE)
            subprocess.run(command, check=True, capture_output=True)
        return self

    @property
    def port(self) -> int:
        """Of the node that has the room."""
        return self.master_of(key_slot(b"room")).port


AnyServer = Server | OwnRedisCluster


class OwnPostgres(Postgres):
    """Asks for a password."""

    password = "postgres-secret"


class OwnRabbitMQ(RabbitMQ):
    """Takes less in one message."""

    settings = ("max_message_size = 1500000",)


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a URL of the page stands for: a server, and how it is reached."""

    server: type[AnyServer] | None = None
    url: str
    password: str = ""
    database: str = ""
    missing: str = ""
    illegal: str = ODD

    def at(self, port: int, *, password: str | None = None, database: str | None = None) -> str:
        return self.url.format(
            port=port,
            password=self.password if password is None else password,
            database=self.database if database is None else database,
        )


def _redis(scheme: str, illegal: str = ODD) -> Place:
    url = f"{scheme}://alice:{{password}}@127.0.0.1:{{port}}/{{database}}"
    known = {"password": "alice-secret", "database": "0", "missing": "99"}
    return Place(server=OwnRedis, url=url, illegal=illegal, **known)


def _postgres(scheme: str) -> Place:
    url = f"{scheme}://postgres:{{password}}@127.0.0.1:{{port}}/{{database}}"
    known = {"password": OwnPostgres.password, "database": "postgres", "missing": "nowhere"}
    return Place(server=OwnPostgres, url=url, **known)


def _kafka(options: str = "", illegal: str = ODD) -> Place:
    url = "kafka://alice:{password}@127.0.0.1:{port}?security_protocol=SASL_PLAINTEXT"
    return Place(server=SecureKafka, url=url + options, password="alice-secret", illegal=illegal)


def _rabbitmq(scheme: str, illegal: str) -> Place:
    url = f"{scheme}://guest:{{password}}@127.0.0.1:{{port}}/{{database}}"
    return Place(server=OwnRabbitMQ, url=url, password="guest", missing="nowhere", illegal=illegal)


PLACES: Mapping[str, Place] = {
    "memory://": Place(url="memory://"),
    "redis://": _redis("redis"),
    "redis://host?cluster=true": Place(
        server=OwnRedisCluster,
        url="redis://alice:{password}@127.0.0.1:{port}?cluster=true",
        password="alice-secret",
    ),
    "redis-stream://": _redis("redis-stream", illegal="fastapi-broadcaster:epoch"),
    "postgres://": _postgres("postgres"),
    "postgres-stream://": _postgres("postgres-stream"),
    "kafka://": _kafka(illegal="a:b"),
    "kafka://host?topic=events": _kafka("&topic=events"),
    "amqp://": _rabbitmq("amqp", illegal="x" * 256),
    "amqp-stream://": _rabbitmq("amqp-stream", illegal="a?b"),
}


@dataclass(frozen=True)
class Row:
    """A line of the page; `kind` is a class, or "none"."""

    fault: str
    url: str
    kind: str
    text: str


def _rows() -> Iterator[Row]:
    for section in PAGE.read_text().split("\n## ")[1:]:
        for url, kind, text in re.findall(r"^\| `(.+?)` \| `?(\w+)`? \| (.+) \|$", section, re.M):
            yield Row(section.partition("\n")[0], url, kind, text)


ROWS = list(_rows())
Trial = Callable[[Place, int], Awaitable[BroadcasterError | None]]


async def failure(call: Awaitable[object]) -> BroadcasterError | None:
    try:
        await call
    except BroadcasterError as error:
        return error
    return None


async def works(broadcaster: Broadcaster, name: str = "room") -> None:
    async with broadcaster.subscribe(name) as subscriber:
        await broadcaster.publish(name, "hello")
        assert await take(subscriber, 1) == ["hello"]


async def cannot_connect(url: str) -> BroadcasterError | None:
    """What is said, each time that it is tried; `None` if it can."""
    broadcaster = Broadcaster(url)
    try:
        error = await failure(broadcaster.connect())
        if error is None:
            await works(broadcaster)
        else:
            assert str(await failure(broadcaster.connect())) == str(error)
            assert broadcaster.health().state == "disconnected"
    finally:
        await broadcaster.disconnect()
    return error


async def away(place: Place, port: int) -> BroadcasterError | None:
    """Behind a port where nobody listens at first."""
    closed = free_port()
    broadcaster = Broadcaster(place.at(closed))
    error = await failure(broadcaster.connect())
    async with Proxy(port, port=closed), broadcaster:
        await works(broadcaster)
    return error and _at(error, closed, port)


def _at(error: BroadcasterError, there: int, here: int) -> BroadcasterError:
    """The same, told of another port."""
    error.args = (str(error).replace(f":{there}", f":{here}"),)
    return error


async def wrong_password(place: Place, port: int) -> BroadcasterError | None:
    return await cannot_connect(place.at(port, password=WRONG))


async def missing_database(place: Place, port: int) -> BroadcasterError | None:
    return await cannot_connect(place.at(port, database=place.missing))


async def illegal_name(place: Place, port: int) -> BroadcasterError | None:
    async with Broadcaster(place.at(port)) as broadcaster:
        error = await failure(broadcaster.publish(place.illegal, "hello"))
        if error is None:
            await works(broadcaster, place.illegal)
        else:
            with pytest.raises(type(error), match=re.escape(str(error))):
                broadcaster.subscribe(place.illegal)
        await works(broadcaster)
    return error


async def too_large(place: Place, port: int) -> BroadcasterError | None:
    """Alone, and in one batch with others, whom it does not concern."""
    async with (
        Broadcaster(place.at(port), max_message_size=4_000_000) as broadcaster,
        broadcaster.subscribe("room") as subscriber,
    ):
        error = await failure(broadcaster.publish("room", LARGE))
        batch = ["1", "2", LARGE, "3", "4"]
        outcomes = await asyncio.gather(
            *(broadcaster.publish("room", message) for message in batch), return_exceptions=True
        )
        sent = [LARGE, *batch]
        if error is not None:
            assert str(outcomes.pop(2)) == str(error)
            sent = [message for message in sent if message != LARGE]
        assert all(isinstance(outcome, Receipt) for outcome in outcomes), outcomes
        heard = await take(subscriber, len(sent))
        assert [message[:3] for message in heard] == [message[:3] for message in sent]
        assert subscriber.gaps == 0
    return error


TRIALS: Mapping[str, Trial] = {
    "The server is away": away,
    "The password is wrong": wrong_password,
    "The database or the vhost is missing": missing_database,
    "The name is illegal": illegal_name,
    "The message is larger than the server takes": too_large,
}


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[type[AnyServer]], AnyServer]]:
    """One of a kind, started when it is first asked for."""
    with ExitStack() as stack:
        started: dict[type[AnyServer], AnyServer] = {}

        def server(kind: type[AnyServer]) -> AnyServer:
            if kind not in started:
                started[kind] = stack.enter_context(kind.private())
            return started[kind]

        yield server


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.fault}-{row.url}")
async def test_what_is_said(
    row: Row, servers: Callable[[type[AnyServer]], AnyServer], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    place, port = PLACES[row.url], 0
    if place.server is not None:
        server = await asyncio.to_thread(servers, place.server)
        port = server.port_of("SASLPT") if isinstance(server, Kafka) else server.port
    error = await TRIALS[row.fault](place, port)
    if error is None:
        assert row.kind == "none"
        return
    assert (told_class(error), str(error)) == (row.kind, row.text.replace("PORT", str(port)))
    everything = "".join(traceback.format_exception(error)) + caplog.text
    assert WRONG not in everything
    assert place.password == "guest" or place.password not in everything


@pytest.mark.parametrize("url", [url for url in PLACES if PLACES[url].server is not None])
async def test_a_host_that_does_not_exist(url: str) -> None:
    """In words of the system, which differ: this one knows no host, or no name server."""
    error = await cannot_connect(PLACES[url].at(1).replace("127.0.0.1", "no.such.host.invalid"))
    assert re.search(r"//no\.such\.host\.invalid:1\b.* is not reachable: \w[\w ]+$", str(error))


def told_class(error: BroadcasterError) -> str:
    """The first of its classes that users can import."""
    names = (one.__name__ for one in type(error).__mro__)
    return next(name for name in names if name in fastapi_broadcaster.__all__)


def test_the_page_has_each_fault_for_each_backend() -> None:
    assert {(row.fault, row.url) for row in ROWS} == {
        (fault, url) for fault in TRIALS for url in PLACES
    }
    assert len(ROWS) == len(TRIALS) * len(PLACES)
    told = {url.partition("://")[0] for url in PLACES}
    same = {"rediss", "rediss-stream", "postgresql", "amqps", "amqps-stream"}
    assert told == SCHEMES.keys() - same
