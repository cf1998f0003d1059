"""amqp:// when the broker dies, freezes or refuses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import aio_pika
import pytest

from fastapi_broadcaster import (
    BackendError,
    BackendUnavailableError,
    Broadcaster,
    Gap,
    MessageTooLargeError,
    Receipt,
)
from servers import RabbitMQ, free_port
from servers.certificates import Certificates
from tests.conformance.tools import back, lost, publish_all, reading, take_until, until
from tests.rabbitmq.broker import EXCHANGE, RabbitMQBroker


async def test_killed_while_publishing(own_rabbitmq: RabbitMQBroker) -> None:
    """One gap, at the place where acknowledged messages are missing; nothing else is lost."""
    acknowledged: list[int] = []
    enough = asyncio.Event()

    async def publish(broadcaster: Broadcaster) -> None:
        number = 0
        while not enough.is_set():
            with suppress(BackendUnavailableError):
                await broadcaster.publish("room", str(number))
                acknowledged.append(number)
            number += 1
            await asyncio.sleep(0.001)

    async def more() -> None:
        target = len(acknowledged) + 100
        await until(lambda: len(acknowledged) >= target)

    async with (
        own_rabbitmq.broadcaster(publish_timeout=30) as broadcaster,
        own_rabbitmq.broadcaster(publish_timeout=30) as other,
        reading(broadcaster.subscribe("room")) as reader,
        reading(broadcaster.subscribe(pattern="ro*")) as pattern,
    ):
        publishing = asyncio.create_task(publish(other))
        await more()
        await own_rabbitmq.kill()
        await lost(broadcaster)
        await own_rabbitmq.restart()
        await back(broadcaster)
        await more()
        enough.set()
        await publishing
        await broadcaster.publish("room", "end")
        await reader.until("end")
        await pattern.until("end")
    assert reader.gaps == [Gap("room", "reconnected")]
    assert pattern.gaps == [Gap("ro*", "reconnected")]
    assert reader.messages == pattern.messages
    at = reader.items.index(reader.gaps[0])
    before = [int(message) for message in reader.messages[:at]]
    after = [int(message) for message in reader.messages[at:-1]]
    assert before == list(range(before[-1] + 1))
    assert after == [number for number in acknowledged if number >= after[0]]
    assert len(before) >= 100
    assert len(after) >= 100


@pytest.mark.parametrize("publisher", ["own", "other"])
async def test_the_gap_is_never_behind_what_came_after(
    own_rabbitmq: RabbitMQBroker, publisher: str
) -> None:
    """Many outages, under a flood, with patterns and channels that hear the same."""
    async with (
        own_rabbitmq.broadcaster(publish_timeout=30) as broadcaster,
        own_rabbitmq.broadcaster(publish_timeout=30) as other,
        reading(broadcaster.subscribe("a.b")) as exact,
        reading(broadcaster.subscribe(pattern="a.*")) as wide,
        reading(broadcaster.subscribe(pattern="a.b*")) as narrow,
    ):
        flooding = other if publisher == "other" else broadcaster
        heard = 0

        async def flood() -> None:
            for number in range(1_000_000):
                with suppress(BackendUnavailableError):
                    await flooding.publish("a.b", str(number))
                await asyncio.sleep(0)

        task = asyncio.create_task(flood())
        for turn in range(5):
            heard = len(exact.messages)
            await until(lambda: len(exact.messages) > heard + 20)  # noqa: B023
            await own_rabbitmq.drop_clients()
            await until(lambda: broadcaster.health().reconnects >= turn + 1)  # noqa: B023
            await back(broadcaster)
        task.cancel()
        await asyncio.wait([task])
        await broadcaster.publish("a.b", "end")
        for reader in (exact, wide, narrow):
            await reader.until("end")
    for reader in (exact, wide, narrow):
        assert len(reader.gaps) == broadcaster.health().reconnects or len(reader.gaps) == 5
        before = -1
        for item in reader.items:
            if isinstance(item, Gap):
                before = None
            elif item.message != "end":
                assert before is None or int(item.message) == before + 1
                before = int(item.message)


async def test_a_frozen_server_is_noticed(own_rabbitmq: RabbitMQBroker) -> None:
    async with (
        own_rabbitmq.broadcaster(publish_timeout=1.0) as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        begun = time.monotonic()
        await own_rabbitmq.pause()
        await lost(broadcaster)
        assert time.monotonic() - begun < 12
        await own_rabbitmq.resume()
        await back(broadcaster)
        await publish_all(broadcaster, "room", ["1", "end"])
        await reader.until("end")
    assert reader.items[0] == Gap("room", "reconnected")
    assert reader.messages == ["1", "end"]


async def test_frozen_while_it_should_confirm(own_rabbitmq: RabbitMQBroker) -> None:
    async with own_rabbitmq.broadcaster() as broadcaster:
        await broadcaster.publish("room", "1")
        await own_rabbitmq.pause()
        with pytest.raises(BackendUnavailableError) as refusal:
            await broadcaster.publish("room", "2")
        assert refusal.value.maybe_published is True
        await own_rabbitmq.resume()


async def test_the_exchange_was_deleted(own_rabbitmq: RabbitMQBroker) -> None:
    """It is made again, and the bindings that went with it; the gap is told."""
    async with (
        await aio_pika.connect(own_rabbitmq.amqp_url) as connection,
        own_rabbitmq.broadcaster() as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        channel = await connection.channel()
        await channel.exchange_delete(EXCHANGE)
        with suppress(BackendUnavailableError):
            await broadcaster.publish("room", "lost")
        await until(lambda: broadcaster.health().reconnects == 1)
        await back(broadcaster)
        await broadcaster.publish("room", "end")
        await reader.until("end")
    assert reader.items[0] == Gap("room", "reconnected")


async def test_the_queue_was_deleted(own_rabbitmq: RabbitMQBroker) -> None:
    async with (
        own_rabbitmq.broadcaster() as broadcaster,
        reading(broadcaster.subscribe("room")) as reader,
    ):
        listed = await own_rabbitmq.control("list_queues", "name")
        [queue] = [line for line in listed.splitlines() if line.startswith("amq.gen-")]
        await own_rabbitmq.control("delete_queue", queue)
        await until(lambda: broadcaster.health().reconnects == 1)
        await back(broadcaster)
        await broadcaster.publish("room", "end")
        await reader.until("end")
    assert reader.items[0] == Gap("room", "reconnected")


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
    assert "at most 2000 bytes, not 3000" in str(error)
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
