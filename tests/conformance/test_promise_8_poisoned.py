"""Promise 8: one poisoned message harms nobody."""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from fastapi_broadcaster import Broadcaster, ChannelTemplate, SerializationError
from fastapi_broadcaster.deliveries import complaints
from tests.backends import BackendCase
from tests.conformance.tools import PATIENCE, reading, take, take_until
from tests.conftest import Refusal


class Point(BaseModel):
    x: int
    y: int


POISON = [
    b"",
    b"not json",
    b"\xff\xfe\x00",
    b"null",
    b'{"x": 1}',
    b'{"x": "one", "y": 2}',
    b"[" * 10_000,
    b'{"x": ' + b"9" * 5_000 + b', "y": 1.5}',
]


async def test_typed_subscribers_skip_and_count(broadcaster: Broadcaster, name: str) -> None:
    points = broadcaster.channel(name, Point)
    raw = broadcaster.channel(name, bytes)
    async with (
        points.subscribe() as typed,
        reading(raw.subscribe()) as other,
        reading(points.subscribe()) as another,
    ):
        await points.publish(Point(x=1, y=2))
        for data in POISON:
            await broadcaster.publish(name, data)
        await points.publish(Point(x=3, y=4))
        assert await take(typed, 2) == [Point(x=1, y=2), Point(x=3, y=4)]
        assert typed.invalid == len(POISON)
        assert typed.gaps == 0
        await other.until(b'{"x":3,"y":4}')
        await another.until(Point(x=3, y=4))
    assert other.messages[1:-1] == POISON
    assert other.subscriber.invalid == 0
    assert another.subscriber.invalid == len(POISON)


async def test_text_that_is_not_utf8(broadcaster: Broadcaster, name: str) -> None:
    async with broadcaster.subscribe(name) as subscriber:
        await broadcaster.publish(name, b"\xff")
        await broadcaster.publish(name, "end")
        assert await take_until(subscriber, "end") == []
        assert subscriber.invalid == 1


async def test_it_is_logged_at_a_bounded_rate(
    broadcaster: Broadcaster, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    points = broadcaster.channel(name, Point)
    begun = time.monotonic()
    async with points.subscribe() as first, reading(points.subscribe()) as second:
        for _ in range(100):
            await broadcaster.publish(name, b"poison")
        await points.publish(Point(x=1, y=2))
        assert await take(first, 1) == [Point(x=1, y=2)]
        await second.until(Point(x=1, y=2))
        assert first.invalid == second.subscriber.invalid == 100
    lines = [record for record in caplog.records if name in record.getMessage()]
    assert 1 <= len(lines) <= 1 + (time.monotonic() - begun) / complaints.every
    assert lines[0].levelno == logging.WARNING


async def test_on_invalid_raise_ends_that_subscriber(broadcaster: Broadcaster, name: str) -> None:
    points = broadcaster.channel(name, Point)
    async with (
        points.subscribe(on_invalid="raise") as strict,
        reading(points.subscribe()) as lenient,
    ):
        await points.publish(Point(x=1, y=2))
        await broadcaster.publish(name, b"poison")
        await points.publish(Point(x=3, y=4))
        assert await take(strict, 1) == [Point(x=1, y=2)]
        for _ in range(2):
            with pytest.raises(SerializationError):
                await asyncio.wait_for(strict.get(), PATIENCE)
        await lenient.until(Point(x=3, y=4))
    assert lenient.messages == [Point(x=1, y=2), Point(x=3, y=4)]


async def test_poison_in_the_log(refused: Refusal, broadcaster: Broadcaster, name: str) -> None:
    if refused.log(broadcaster, name, history="all"):
        return
    points = broadcaster.channel(name, Point)
    for data in (b"poison", b'{"x": 1, "y": 2}', b"poison", b'{"x": 3, "y": 4}', b"poison"):
        await broadcaster.publish(name, data)
    wanted = [Point(x=1, y=2), Point(x=3, y=4)]
    async with points.subscribe(history="all", buffer_size=1) as subscriber:
        assert await take(subscriber, 2) == wanted
        await points.publish(Point(x=5, y=6))
        assert await take(subscriber, 1) == [Point(x=5, y=6)]
        assert subscriber.invalid == 3
    page = await points.page()
    assert [event.message for event in page.items] == [*wanted, Point(x=5, y=6)]


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


async def test_nothing_ever_unpickles(broadcaster: Broadcaster, name: str, tmp_path: Path) -> None:
    bomb = pickle.dumps(_Bomb(tmp_path / "exploded"))
    points = broadcaster.channel(name, Point)
    async with points.subscribe() as typed, broadcaster.subscribe(name) as text:
        await broadcaster.publish(name, bomb)
        await points.publish(Point(x=1, y=2))
        assert await take(typed, 1) == [Point(x=1, y=2)]
        assert (await take(text, 1))[-1]
    assert not (tmp_path / "exploded").exists()


async def test_publishing_validates(broadcaster: Broadcaster, name: str) -> None:
    points = broadcaster.channel(name, Point)
    async with points.subscribe() as subscriber:
        with pytest.raises(SerializationError):
            await points.publish({"x": "one"})  # type: ignore[arg-type]
        await points.publish(Point(x=1, y=2))
        assert await take(subscriber, 1) == [Point(x=1, y=2)]
        assert subscriber.invalid == 0


async def test_poison_heard_through_a_pattern(
    refused: Refusal, case: BackendCase, broadcaster: Broadcaster, name: str
) -> None:
    points = ChannelTemplate(f"{name}.{{id}}", Point)
    if refused.pattern(broadcaster, points):
        return
    async with broadcaster.subscribe(pattern=points) as subscriber:
        await broadcaster.publish(f"{name}.a", b"poison")
        await broadcaster.channel(points, id="b").publish(Point(x=1, y=2))
        event = await asyncio.wait_for(subscriber.get(), PATIENCE)
        assert (event.message, event.params) == (Point(x=1, y=2), {"id": "b"})
        if subscriber.invalid == 0 and not case.order_across:
            await broadcaster.channel(points, id="a").publish(Point(x=3, y=4))
            await asyncio.wait_for(subscriber.get(), PATIENCE)
        assert subscriber.invalid == 1
