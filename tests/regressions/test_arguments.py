"""Arguments that were taken in silence, or refused in words that helped nobody."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from fastapi_broadcaster import (
    Broadcaster,
    ChannelTemplate,
    HistoryLostError,
    UnsupportedError,
    subscriber,
)
from fastapi_broadcaster.backends._reasons import reason
from tests.conformance.tools import take

rooms = ChannelTemplate("rooms.{room}")


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"buffer_size": 0}, ValueError),
        ({"buffer_size": 1.5}, TypeError),
        ({"max_message_size": "1MB"}, TypeError),
        ({"max_message_size": 0}, ValueError),
        ({"connect_timeout": "10"}, TypeError),
        ({"publish_timeout": -1}, ValueError),
        ({"subscribe_timeout": float("nan")}, ValueError),
        ({"linger": -1}, ValueError),
        ({"on_disconnect": 3}, TypeError),
        ({"on_reconnect": "print"}, TypeError),
    ],
    ids=str,
)
def test_a_broadcaster_names_the_argument_that_is_wrong(
    options: dict[str, Any], refusal: type[Exception]
) -> None:
    [name] = options
    with pytest.raises(refusal, match=f"^{name}= is "):
        Broadcaster("memory://", **options)


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"history": 1.5}, ValueError),
        ({"history": timedelta(-1)}, ValueError),
        ({"history": True}, ValueError),
        ({"after": 3}, TypeError),
        ({"buffer_size": "9"}, TypeError),
    ],
    ids=str,
)
def test_a_subscription_names_the_argument_that_is_wrong(
    options: dict[str, Any], refusal: type[Exception]
) -> None:
    [name] = options
    with pytest.raises(refusal, match=f"^{name}= is "):
        Broadcaster("memory://").subscribe("c", **options)


async def test_an_empty_id_is_none() -> None:
    """As over HTTP: clients that have no id yet begin with an empty one; it was a gap."""
    async with Broadcaster("memory://") as broadcaster:
        for channel in ("c", "d"):
            await broadcaster.publish(channel, "before")
        async with broadcaster.subscribe("c", after="", history=1) as heard:
            await heard.add("d", after="")
            await broadcaster.publish("d", "x")
            assert await take(heard, 2) == ["before", "x"]
            assert heard.gaps == 0


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis-stream"])
def test_a_redis_database_is_a_number(scheme: str) -> None:
    """It was database 0 in silence."""
    with pytest.raises(ValueError, match=f"{scheme}://: the database, .* must be a number"):
        Broadcaster(f"{scheme}://host/notadb")
    Broadcaster(f"{scheme}://host/3/")


def test_a_template_is_no_channel() -> None:
    template: Any = rooms
    for wrong in (template, [template]):
        with pytest.raises(TypeError, match="pattern=template"):
            Broadcaster("memory://").subscribe(wrong)


def test_who_has_no_such_option() -> None:
    misspelt: dict[str, Any] = {"pattern": rooms}
    with pytest.raises(TypeError, match=r"^subscriber\(\) has no option pattern="):
        subscriber("c", **misspelt)
    with pytest.raises(TypeError, match=r"^subscribe\(\) has no option pattern="):
        Broadcaster("memory://").channel("c").subscribe(**misspelt)


async def test_an_id_of_another_log_is_told_as_such() -> None:
    async with Broadcaster("memory://") as broadcaster:
        with pytest.raises(HistoryLostError, match=r"^the id is not of this log, or "):
            await broadcaster.channel("c").page(after="nonsense")


def test_a_backend_without_patterns_names_one_that_has_them() -> None:
    with pytest.raises(UnsupportedError, match="patterns: use redis:// or postgres-stream://"):
        Broadcaster("redis-stream://host").subscribe(pattern="rooms.*")


def test_a_url_of_sqlalchemy() -> None:
    with pytest.raises(ValueError, match="did you mean postgresql://"):
        Broadcaster("postgresql+asyncpg://me@host/app")


def test_a_request_that_the_driver_gave_up_is_told_in_words() -> None:
    """`kafka://` to the port of a Redis said "not reachable: CancelledError"."""
    assert reason(asyncio.CancelledError()) == "no answer in time"
