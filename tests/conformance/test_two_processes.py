"""What one process publishes the other's subscribers get, and an id of one is good in the other."""

from __future__ import annotations

from itertools import groupby

import orjson
import pytest

from fastapi_broadcaster import Broadcaster, Gap, HistoryLostError
from tests.backends import BackendCase, rows
from tests.brokers import Broker
from tests.conformance import processes
from tests.conformance.processes import peer
from tests.conformance.tools import publish_all, reading, take_items, take_until, until
from tests.trimming import trim, way_to_trim

COUNT = 50
logs = rows(lambda case: case.log and case.processes)


@rows(lambda case: case.processes)
async def test_eight_publishers_in_two_processes(
    case: BackendCase, broker: Broker, broadcaster: Broadcaster, name: str
) -> None:
    """All readers hear all; on a log in the same order, and of each publisher in its own."""
    total = 8 * COUNT
    arguments = (broker.url, name)
    async with (
        peer(processes.talk, *arguments, "a", str(total), str(COUNT)) as one,
        peer(processes.talk, *arguments, "b", str(total), str(COUNT)) as two,
        reading(broadcaster.subscribe(name)) as here,
    ):
        for process in (one, two):
            assert await process.line() == "live"
        for process in (one, two):
            process.go()
        found = [orjson.loads(await process.line()) for process in (one, two)]
        await until(lambda: len(here.messages) >= total)
        for process in (one, two):
            await process.ended()
    found.append(here.messages)
    assert here.gaps == []
    for messages in found:
        assert len(messages) == total
        for publisher in (f"{process}{number}" for process in "ab" for number in range(4)):
            mine = [message for message in messages if message.startswith(f"{publisher} ")]
            assert mine == [f"{publisher} {number}" for number in range(COUNT)]
    if case.log:
        assert found[0] == found[1] == found[2]


@logs
@pytest.mark.parametrize("channels", [1, 3])
async def test_an_id_of_a_process_that_is_gone(
    case: BackendCase, broker: Broker, broadcaster: Broadcaster, name: str, channels: int
) -> None:
    names = [f"{name}.{number}" for number in range(channels)]
    async with peer(processes.read, broker.url, ",".join(names)) as gone:
        heard, cursor = orjson.loads(await gone.line())
        await gone.ended()
    async with broadcaster.subscribe(names, after=cursor, history="all") as subscriber:
        await publish_all(broadcaster, names[0], ["end"])
        rest = await take_until(subscriber, "end")
    everything = [str(number) for number in range(10)]
    for number in range(channels):
        assert [one for one in [*heard, *rest] if int(one) % channels == number] == [
            one for one in everything if int(one) % channels == number
        ]
    assert subscriber.gaps == 0


# -- the log is not what it was -----------------------------------------------------------------


async def resumed(broker: Broker, name: str, cursor: str, since: list[str]) -> list[object]:
    """What another process gets that comes back with a cursor, when more was published or not."""
    async with broker.broadcaster() as broadcaster:
        await publish_all(broadcaster, name, since)
        subscription = broadcaster.subscribe(name, after=cursor, history="all")
        async with subscription as subscriber:
            first = await take_items(subscriber, 1)
            last = f"end, {len(since)} since"
            await broadcaster.publish(name, last)
            found = [*first, *await take_until(subscriber, last)]
    return [item for item, _ in groupby(found)]  # told again while nothing can be proven


@logs
async def test_an_id_that_the_log_no_longer_reaches(
    case: BackendCase, own_broker: Broker, name: str
) -> None:
    """The log was trimmed, emptied or lost meanwhile: a gap, whether or not more has come."""
    trimmed, emptied, lost, busy = (f"{name}.{loss}" for loss in ("trim", "empty", "lost", "busy"))
    names = [trimmed, emptied, lost, busy]
    async with peer(processes.read, own_broker.url, *names) as gone:
        cursors = {one: orjson.loads(await gone.line())[1] for one in names}
        await gone.ended()
    if way := way_to_trim(own_broker):  # else a server trims by size, as tests of its own have it
        await trim(way, trimmed, 0, 7)
        await trim(way, emptied, 0, 10)
        for one, kept in ((trimmed, ["7", "8", "9"]), (emptied, [])):
            expired = Gap(one, "expired")
            assert await resumed(own_broker, one, cursors[one], []) == [expired, *kept]
            more = await resumed(own_broker, one, cursors[one], ["since"])
            assert more == [expired, *kept, "end, 0 since", "since"]
    await own_broker.wipe()
    assert await resumed(own_broker, lost, cursors[lost], []) == [Gap(lost, "reset")]
    told = await resumed(own_broker, busy, cursors[busy], ["since"])
    assert told == [Gap(busy, "reset"), "since"]


IDS = {
    "memory": "0a1b2c3d-40-5",
    "redis-stream": "1718000000000-3",
    "empty redis-stream": "0-0@0123456789abcdef@1718000000000",
    "postgres-stream": "0123456789abcdef-3",
    "kafka": "0:40",
    "kafka of two partitions": "0:2,1:2",
    "amqp-stream": "40",
    "two channels": "~m.eyJhIjoiMDozIn0",
    "nobody": "hello",
    "a live stream": "~live",
}


@rows(lambda case: case.log)
async def test_an_id_of_another_backend(
    case: BackendCase, broadcaster: Broadcaster, name: str
) -> None:
    await publish_all(broadcaster, name, [str(number) for number in range(10)])
    found = {}
    for source, id in IDS.items():
        async with broadcaster.subscribe(name, after=id, history=2) as subscriber:
            found[source] = await take_items(subscriber, 1)
    assert found == {source: [Gap(name, "reset")] for source in IDS}


@rows(lambda case: case.log)
async def test_an_id_of_another_channel_skips_nothing(broadcaster: Broadcaster, name: str) -> None:
    """Also where each channel counts from zero, and the id would be a place in both."""
    other, ten = f"{name}.other", [str(number) for number in range(10)]
    await publish_all(broadcaster, other, ten[:5])
    await publish_all(broadcaster, name, ten)
    page = await broadcaster.channel(other).page(limit=1)
    async with broadcaster.subscribe(name, after=page.items[0].id) as subscriber:
        await broadcaster.publish(name, "end")
        found = await take_until(subscriber, "end")
    assert found == ten or found[0] == Gap(name, "reset")
    if found == ten:  # so the id is a place in this channel too
        assert (await broadcaster.channel(name).page(after=page.items[0].id)).items
    else:
        with pytest.raises(HistoryLostError):
            await broadcaster.channel(name).page(after=page.items[0].id)


@rows(lambda case: case.log)
async def test_an_id_of_another_channel(broadcaster: Broadcaster, name: str) -> None:
    """A gap, unless all channels have one order in which it is a place like any other."""
    other = f"{name}.other"
    await publish_all(broadcaster, name, [str(number) for number in range(10)])
    await publish_all(broadcaster, other, [str(number) for number in range(50)])
    page = await broadcaster.channel(other).page(limit=1)
    async with broadcaster.subscribe(name, after=page.items[0].id) as subscriber:
        await broadcaster.publish(name, "end")
        found = await take_until(subscriber, "end")
    assert found == [] or found[0] == Gap(name, "reset")
