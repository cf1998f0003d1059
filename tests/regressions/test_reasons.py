"""Why a broker was lost is told: once, in words, and whatever errors a driver makes of it."""

from __future__ import annotations

import logging

import pytest

from fastapi_broadcaster import BackendUnavailableError
from fastapi_broadcaster.backends import _kafka_driver, _rabbitmq
from fastapi_broadcaster.backends._postgres import Address, send
from fastapi_broadcaster.backends._reasons import reason
from fastapi_broadcaster.backends.base import Outcome


def test_errors_that_are_each_other_s_cause() -> None:
    """aiormq raises one error again and again; walking it round and round froze the loop."""
    first, second = OSError("first"), RuntimeError("second")
    first.__cause__, second.__context__ = second, first
    assert reason(first) == "first"


def test_a_code_of_the_broker_s_own_is_no_error_number_of_the_system() -> None:
    """What RabbitMQ closes a connection with was told as "Unknown error 320"."""
    assert reason(ConnectionError(320, "CONNECTION_FORCED - bye")) == "CONNECTION_FORCED - bye"
    assert reason(ConnectionError(104, "reset by peer")) == "Connection reset by peer"


def test_a_time_out_is_told_in_words() -> None:
    assert reason(TimeoutError()) == "no answer in time"


async def test_each_message_is_told_once_what_became_of_it() -> None:
    """PostgreSQL's said it twice, and those that had not left the opposite besides."""
    address = Address("postgres://db/app", connect_timeout=1.0, command_timeout=1.0)

    async def lost(piece: object) -> list[Outcome]:
        with address.errors(maybe_published=True):
            raise ConnectionError("lost")
        return []

    left, behind = await send([[1], [2]], lost)
    assert isinstance(left, BackendUnavailableError)
    assert isinstance(behind, BackendUnavailableError)
    assert (left.maybe_published, behind.maybe_published) == (True, False)
    where = "postgres://db:5432/app"
    assert str(left) == f"{where}: lost; the message may have been published"
    assert str(behind) == f"{where}: lost; nothing was published"


@pytest.mark.parametrize("driver", ["aiokafka", _rabbitmq.aiormq.connection.__name__])
def test_a_driver_does_not_repeat_itself(driver: str, caplog: pytest.LogCaptureFixture) -> None:
    """A Kafka that was away was told of a thousand times a second."""
    logger = logging.getLogger(driver)
    for number in range(1_000):
        logger.warning("cannot connect (%d)", number, exc_info=OSError("refused"))
    assert len(caplog.messages) <= 1
    assert "Traceback" not in caplog.text


async def test_a_failed_producer_of_kafka_does_not_crash() -> None:
    """aiokafka fell over its own missing transaction, and asyncio logged a traceback."""
    producer = _kafka_driver.producer(["127.0.0.1:1"], timeout=1.0, security={})
    manager = vars(producer)["_txn_manager"]
    manager.fatal_error(OSError("refused"))
    await producer.stop()
