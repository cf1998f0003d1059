"""`postgres-stream://`: retention, and what is told when something is no longer there."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from fastapi_broadcaster import Broadcaster, Event, Gap, HistoryLostError
from tests.conformance.tools import Reader, back, lost, reading, take, take_until, until
from tests.postgres.broker import PostgresStreamBroker
from tests.postgres.conftest import at_most


async def test_retention_by_number(stream_url: str, table: str, sql: asyncpg.Connection) -> None:
    """Of each channel about the newest remain, whoever publishes; others are left alone."""
    url = f"{stream_url}&history=50"
    async with Broadcaster(url) as broadcaster:
        quiet = [str(number) for number in range(50)]
        for message in quiet:
            await broadcaster.publish("quiet", message)
        first = await broadcaster.publish("busy", "first")
        for number in range(3_000):
            await sql.execute(
                f"insert into {table}_outbox (channel, data) values ('busy', $1)",
                str(number).encode(),
            )
        await until(lambda: at_most(sql, table, 50 + 100))
        with pytest.raises(HistoryLostError) as loss:
            await broadcaster.channel("busy").page(after=first.id)
        assert loss.value.reason == "expired"
        async with broadcaster.subscribe("quiet", history="all") as subscriber:
            assert await take(subscriber, 50) == quiet
        async with broadcaster.subscribe("busy", history=10) as subscriber:
            assert await take(subscriber, 10) == [str(number) for number in range(2_990, 3_000)]


async def test_retention_by_age(stream_url: str, table: str, sql: asyncpg.Connection) -> None:
    async with Broadcaster(f"{stream_url}&max_age=60") as broadcaster:
        receipts = [await broadcaster.publish("aged", str(number)) for number in range(20)]
        await asyncio.sleep(1)  # in which it looks for what is too old
        async with broadcaster.subscribe("aged", history="all") as subscriber:
            assert len(await take(subscriber, 20)) == 20
    async with Broadcaster(f"{stream_url}&max_age=0.5"):
        await until(lambda: at_most(sql, table, 0))
    async with Broadcaster(stream_url) as broadcaster:
        channel = broadcaster.channel("aged")
        assert (await channel.page()).items == []
        assert (await channel.page(after=receipts[-1].id)).items == []
        with pytest.raises(HistoryLostError):
            await channel.page(after=receipts[-2].id)
        async with broadcaster.subscribe("aged", after=receipts[3].id) as subscriber:
            await broadcaster.publish("aged", "end")
            assert await take_until(subscriber, "end") == [Gap("aged", "expired")]


async def test_messages_deleted_by_hand_are_told_to_who_resumes(
    stream_url: str, table: str, sql: asyncpg.Connection
) -> None:
    async with Broadcaster(stream_url) as broadcaster:
        ids = [(await broadcaster.publish("hand", str(number))).id for number in range(10)]
        other = (await broadcaster.publish("other", "0")).id
        await sql.execute(f"delete from {table} where data = any($1)", [b"3", b"4"])
        channel = broadcaster.channel("hand")
        assert [one.message for one in (await channel.page(after=ids[4])).items] == list("56789")
        with pytest.raises(HistoryLostError) as loss:
            await channel.page(after=ids[3])
        assert loss.value.reason == "expired"
        assert [one.message for one in (await channel.page(before=ids[6])).items] == list("0125")
        assert (await broadcaster.channel("other").page(after=other)).items == []


async def test_an_empty_channel_has_an_id_that_is_proven(
    stream_url: str, table: str, sql: asyncpg.Connection
) -> None:
    """Nothing is missing on a channel that nothing was published on."""
    async with Broadcaster(stream_url) as broadcaster:
        async with broadcaster.subscribe("empty") as subscriber:
            start = subscriber.cursor
        assert start is not None
        for number in range(20):
            await broadcaster.publish("busy", str(number))
        await sql.execute(f"delete from {table}")
        async with broadcaster.subscribe("empty", after=start) as subscriber:
            await broadcaster.publish("empty", "end")
            assert await take_until(subscriber, "end") == []
        async with broadcaster.subscribe("busy", after=start) as subscriber:
            await broadcaster.publish("busy", "end")
            assert await take_until(subscriber, "end") == [Gap("busy", "expired")]


async def test_a_truncated_log_is_a_reset_for_who_resumes(
    stream_url: str, table: str, sql: asyncpg.Connection
) -> None:
    """Who is live at that time has lost nothing, and goes on."""
    async with (
        Broadcaster(stream_url) as broadcaster,
        broadcaster.subscribe("cut") as live,
    ):
        before = (await broadcaster.publish("cut", "before")).id
        last = (await broadcaster.publish("cut", "last")).id
        await sql.execute(f"truncate {table} restart identity")
        after = (await broadcaster.publish("cut", "after")).id
        assert before is not None
        assert after is not None
        assert int(after.split("-")[1]) > int(before.split("-")[1])
        await take_until(live, "after")
        assert live.gaps == 0
        async with broadcaster.subscribe("cut", after=before) as resumed:
            await broadcaster.publish("cut", "end")
            assert await take_until(resumed, "end") == [Gap("cut", "reset"), "after"]
        page = await broadcaster.channel("cut").page(after=after)
        assert [event.message for event in page.items] == ["end"]
        page = await broadcaster.channel("cut").page(after=last)  # nothing is missing behind it
        assert [event.message for event in page.items] == ["after", "end"]
    async with (
        Broadcaster(stream_url) as another,
        another.subscribe("cut", after=last) as resumed,
    ):
        await another.publish("cut", "new")
        assert (await take_until(resumed, "new"))[0] == Gap("cut", "reset")  # it cannot know that


async def test_a_reader_that_was_slow_over_a_truncate(
    stream_url: str, table: str, sql: asyncpg.Connection
) -> None:
    async with (
        Broadcaster(stream_url) as broadcaster,
        broadcaster.subscribe("slow", buffer_size=10) as slow,
        reading(broadcaster.subscribe("slow")) as quick,
    ):
        for number in range(50):
            await broadcaster.publish("slow", str(number))
        await quick.until("49")
        await sql.execute(f"truncate {table}")
        await broadcaster.publish("slow", "end")
        await quick.until("end")
        found = await take_until(slow, "end")
    assert Gap("slow", "reset") in found
    assert quick.gaps == []


@pytest.mark.parametrize("loss", ["deleted", "truncated", "dropped", "restored"])
async def test_what_was_lost_while_away_is_told_to_who_was_live(loss: str) -> None:
    """A live reader proves, when it is back, that nothing was lost behind its position."""
    with PostgresStreamBroker() as broker:
        options: dict[str, Any] = {"publish_timeout": 20.0, "subscribe_timeout": 20.0}
        async with (
            broker.broadcaster(**options) as broadcaster,
            reading(broadcaster.subscribe("room")) as reader,
            reading(broadcaster.subscribe("other")) as other,
            reading(broadcaster.subscribe(pattern="r*")) as pattern,
        ):
            old = (await broadcaster.publish("room", "before")).id
            await broadcaster.publish("other", "before")
            await reader.until("before")
            await broker.kill()
            await lost(broadcaster)
            for sql in {
                "deleted": ["select count(*) from broadcaster_put('{room,room}', '{a,b}');",
                            "delete from broadcaster where data = 'a';"],
                "truncated": ["truncate broadcaster;"],
                "dropped": ["drop table broadcaster;"],
                "restored": ["select setval('broadcaster_id', 5);", "delete from broadcaster;"],
            }[loss]:  # fmt: skip
                await asyncio.to_thread(broker.server.single_user, sql)
            await broker.restart()
            if loss == "dropped":
                async with broker.broadcaster():
                    pass  # makes it anew
            await back(broadcaster)
            await broadcaster.publish("room", "after")
            await broadcaster.publish("other", "after")
            for one in (reader, other, pattern):
                await one.until("after")
            reason = "expired" if loss == "deleted" else "reset"
            rest = ["b"] if loss == "deleted" else []
            assert shape(reader) == ["before", Gap("room", reason), *rest, "after"]
            assert shape(pattern) == ["before", Gap("r*", reason), *rest, "after"]
            told = [] if loss == "deleted" else [Gap("other", reason)]
            assert shape(other) == ["before", *told, "after"]
            async with broadcaster.subscribe("room", after=old) as resumed:
                await broadcaster.publish("room", "end")
                assert (await take_until(resumed, "end"))[0] == Gap("room", reason)


def shape(reader: Reader) -> list[object]:
    return [item.message if isinstance(item, Event) else item for item in reader.items]
