"""amqp:// when the broker refuses: a message, a user, a certificate."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aio_pika
import pytest

from fastapi_broadcaster import (
    BackendError,
    BackendUnavailableError,
    Broadcaster,
    MessageTooLargeError,
    Receipt,
)
from servers import RabbitMQ, free_port
from servers.certificates import Certificates
from tests.conformance.tools import reading, take_until, until
from tests.rabbitmq.broker import EXCHANGE, RabbitMQBroker


async def _together(broadcaster: Broadcaster, channels: list[str]) -> list[object]:
    """Publish so that all but the first leave in one batch."""
    return await asyncio.gather(
        *(broadcaster.publish(channel, channel) for channel in channels), return_exceptions=True
    )


async def test_a_channel_that_is_not_allowed(own_rabbitmq: RabbitMQBroker) -> None:
    """A refusal in the midst of a batch: those before it and behind it arrive, once, in order."""
    async with own_rabbitmq.broadcaster() as broadcaster:
        await own_rabbitmq.refuse_all_but("ok.")
        names = [f"ok.{number}" for number in range(30)]
        names[11:11] = ["bad.1"]
        names[25:25] = ["bad.2", "bad.1"]
        async with reading(broadcaster.subscribe(pattern="*")) as reader:
            outcomes = await _together(broadcaster, [*names, "ok.end"])
            await reader.until("ok.end")
    good = [name for name in names if name.startswith("ok.")]
    assert reader.messages == [*good, "ok.end"]
    assert reader.gaps == []
    for name, outcome in zip(names, outcomes, strict=False):
        if name.startswith("ok."):
            assert outcome == Receipt(channel=name)
        else:
            assert isinstance(outcome, BackendError)
            assert not isinstance(outcome, BackendUnavailableError)
            assert f"access to topic '{name}'" in str(outcome)


async def test_a_queue_of_somebody_else_that_is_full(rabbitmq: RabbitMQBroker, name: str) -> None:
    """The server says no to one of them (basic.nack)."""
    async with (
        await aio_pika.connect(rabbitmq.amqp_url) as connection,
        rabbitmq.broadcaster() as broadcaster,
    ):
        channel = await connection.channel()
        full = {"x-max-length": 1, "x-overflow": "reject-publish"}
        queue = await channel.declare_queue(exclusive=True, arguments=full)
        await queue.bind(EXCHANGE, f"{name}.full")
        await broadcaster.publish(f"{name}.full", "fits")
        channels = [f"{name}.{word}" for word in ("a", "b", "full", "c", "d")]

        async def refused() -> bool:
            outcomes = await _together(broadcaster, channels)
            assert all(isinstance(outcomes[at], Receipt) for at in (0, 1, 3, 4))
            error = outcomes[2]
            return isinstance(error, BackendError) and "refused the message" in str(error)

        await until(refused)


class Limited(RabbitMQ):
    """Takes little messages."""

    settings = ("max_message_size = 2000",)


async def test_a_message_larger_than_the_server_takes() -> None:
    with Limited.private() as server:
        async with (
            Broadcaster(server.url) as broadcaster,
            reading(broadcaster.subscribe("room")) as reader,
        ):
            messages = ["1", "2", "x" * 3_000, "3", "end"]
            outcomes = await asyncio.gather(
                *(broadcaster.publish("room", message) for message in messages),
                return_exceptions=True,
            )
            await reader.until("end")
    assert reader.messages == ["1", "2", "3", "end"]
    error = outcomes.pop(2)
    assert isinstance(error, MessageTooLargeError)
    assert isinstance(error, BackendError)
    assert "at most 2,000 bytes, not 3,000" in str(error)
    assert all(isinstance(outcome, Receipt) for outcome in outcomes)


async def test_cancelled_publishers_leave_the_connection_fit(
    rabbitmq: RabbitMQBroker, name: str
) -> None:
    async with (
        rabbitmq.broadcaster() as broadcaster,
        reading(broadcaster.subscribe(name)) as reader,
    ):
        for turn in range(100):
            task = asyncio.create_task(broadcaster.publish(name, f"cancelled {turn}"))
            for _ in range(turn % 12):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await broadcaster.publish(name, str(turn))
        await reader.until("99")
    kept = [message for message in reader.messages if not message.startswith("cancelled")]
    assert kept == [str(turn) for turn in range(100)]
    assert len(set(reader.messages)) == len(reader.messages)


async def test_faults_and_their_errors(rabbitmq: RabbitMQBroker) -> None:
    """Each tells where it looked and what is wrong, and no password."""
    await rabbitmq.control("add_user", "nobody", "secret")
    port, away = rabbitmq.server.port, free_port()
    table = {
        f"amqp://guest:secret@127.0.0.1:{port}/": "refused the user or password",
        f"amqp://guest:guest@127.0.0.1:{port}/secret-vhost": "no vhost 'secret-vhost', or it is",
        f"amqp://nobody:secret@127.0.0.1:{port}/": "no vhost '/', or it is closed to this user",
        f"amqp://guest:secret@127.0.0.1:{away}/": "is not reachable",
        f"amqp://guest:secret@nowhere.invalid:{port}/": "is not reachable",
    }
    for url, text in table.items():
        with pytest.raises(BackendUnavailableError) as refusal:
            await Broadcaster(url, connect_timeout=20).connect()
        message = str(refusal.value)
        assert text in message
        assert url.partition("@")[2].partition("/")[0] in message
        assert "vhost '" in message
        assert "secret" not in message.replace("secret-vhost", "")


async def test_an_exchange_of_another_type(rabbitmq: RabbitMQBroker, name: str) -> None:
    async with await aio_pika.connect(rabbitmq.amqp_url) as connection:
        channel = await connection.channel()
        await channel.declare_exchange(name, "direct", auto_delete=False)
        with pytest.raises(BackendError, match="inequivalent arg 'type'"):
            await Broadcaster(f"{rabbitmq.url}?exchange={name}").connect()
        await channel.exchange_delete(name)


async def test_a_user_who_may_not_declare(rabbitmq: RabbitMQBroker, name: str) -> None:
    """The exchange that is there is enough."""
    await rabbitmq.control("add_user", name, "secret")
    own = "^amq.gen-.*"
    may = f"({own}|^{EXCHANGE}$)"
    await rabbitmq.control("set_permissions", "-p", "/", name, own, may, may)
    url = f"amqp://{name}:secret@127.0.0.1:{rabbitmq.server.port}/"
    async with (
        rabbitmq.broadcaster(),
        Broadcaster(url) as broadcaster,
        broadcaster.subscribe("room") as subscriber,
    ):
        await broadcaster.publish("room", "end")
        assert await take_until(subscriber, "end") == []


class Secure(RabbitMQ):
    """Speaks TLS too."""


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Secure, Certificates]]:
    made = Certificates.make(Path(tmp_path_factory.mktemp("certificates")))
    Secure.authority = made.ca
    Secure.certificate, Secure.key = made.server
    with Secure.private() as server:
        yield server, made


async def test_tls(secure: tuple[Secure, Certificates]) -> None:
    server, certificates = secure
    url = f"amqps://guest:guest@127.0.0.1:{server.tls_port}/"
    async with (
        Broadcaster(f"{url}?cafile={certificates.ca}") as broadcaster,
        broadcaster.subscribe("room") as subscriber,
    ):
        await broadcaster.publish("room", "end")
        assert await take_until(subscriber, "end") == []
    for query in (f"?cafile={certificates.other_ca}", ""):
        with pytest.raises(BackendUnavailableError, match=r"(?i)certificate.verify.failed"):
            await Broadcaster(url + query).connect()
    with pytest.raises(BackendUnavailableError, match="is not reachable"):
        await Broadcaster(f"{url}?cafile=/nowhere").connect()
