"""10,000 events in pages, forwards and backwards, while others publish and trim."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi_broadcaster import Broadcaster, Channel, Event, HistoryLostError, Page
from tests.backends import BackendCase, rows
from tests.brokers import Broker
from tests.conformance import processes
from tests.conformance.processes import Peer, peer
from tests.conformance.tools import until
from tests.postgres.broker import PostgresBroker
from tests.trimming import way_to_trim

COUNT = 10_000
OLD = 2_000  # before them, most of which are trimmed
STEP = 100
STEPS = 19
KEEPING_ALL = {"redis-stream": "?maxlen=100000", "postgres-stream": "?history=0"}
Turn = Callable[[str], Awaitable[Page[str]]]


async def fill(channel: Channel[str], numbers: range) -> Event[str]:
    """Publish numbers; returns the last of them as an event."""
    for start in range(numbers.start, numbers.stop, STEP):
        await asyncio.gather(*(channel.publish(str(start + one)) for one in range(STEP)))
    return (await channel.page(limit=1)).items[0]


@asynccontextmanager
async def others(
    case: BackendCase, broker: Broker, broadcaster: Broadcaster, name: str
) -> AsyncIterator[Peer | None]:
    """Two processes publish; one may be told to trim, where brokers can be told that."""
    async with AsyncExitStack() as stack:
        trimming: Peer | None = None
        if not case.processes:
            for _ in range(2):
                publishing = asyncio.create_task(_publish(broadcaster, name))
                stack.callback(publishing.cancel)
        else:
            url = broker.url + KEEPING_ALL.get(case.id, "")
            started = [peer(processes.publish, url, name, first) for first in "ab"]
            if way := way_to_trim(broker):
                started.append(peer(processes.trim, way, name, str(STEPS), str(STEP)))
            peers = [await stack.enter_async_context(one) for one in started]
            for one in peers:
                assert await one.line() == "live"
            trimming = peers[2] if way else None
        yield trimming


async def _publish(broadcaster: Broadcaster, name: str) -> None:
    """As many as make a ring of `memory://` drop what is old, and no more."""
    for number in range(OLD // 2):
        await broadcaster.publish(name, f"other {number}")
        await asyncio.sleep(0)


async def pages(turn: Turn, start: Event[str], way: str) -> list[Event[str]]:
    """Turn pages until there are `COUNT` events."""
    found: list[Event[str]] = []
    at = start.id
    while len(found) < COUNT:
        assert at is not None, "there is more"
        page = await turn(at)
        found = found + page.items if way == "next" else page.items + found
        at = getattr(page, way)
    return found


@rows(lambda case: case.log)
async def test_forwards_and_backwards_are_the_same(
    case: BackendCase, broker: Broker, name: str
) -> None:
    size = None if case.id == "kafka" else 100_000 if case.processes else OLD + COUNT + STEP
    async with broker.broadcaster(log_size=size) as broadcaster:
        channel = broadcaster.channel(name)
        first = await fill(channel, range(STEP))
        start = await fill(channel, range(STEP, OLD))
        last = await fill(channel, range(OLD, OLD + COUNT))

        async def behind(id: str) -> Page[str]:
            page = await channel.page(limit=500, after=id)
            if isinstance(broker, PostgresBroker):
                assert page.items == await rows_of(broker, name, "> $2 order by id", id)
            return page

        async def before(id: str) -> Page[str]:
            page = await channel.page(limit=1_000, before=id)
            if isinstance(broker, PostgresBroker):
                rows = await rows_of(broker, name, "< $2 order by id desc", id, limit=1_000)
                assert page.items == rows[::-1]
            return page

        async with others(case, broker, broadcaster, name) as trimming:

            async def published() -> list[Event[str]]:
                return (await channel.page(limit=1, after=last.id)).items

            await until(published)
            [end] = await published()
            if trimming is not None:
                trimming.go()
            there = await pages(behind, start, "next")
            back = await pages(before, end, "previous")
            if trimming is not None:
                await trimming.ended()
            if trimming is not None or not case.processes:

                async def expired() -> bool:
                    try:
                        await channel.page(after=first.id)
                    except HistoryLostError as lost:
                        return lost.reason == "expired"
                    return False

                await until(expired)
    assert [event.message for event in there] == [str(OLD + one) for one in range(COUNT)]
    assert [(event.id, event.message, event.time) for event in back] == [
        (event.id, event.message, event.time) for event in there
    ]


async def rows_of(
    broker: PostgresBroker, name: str, which: str, id: str, *, limit: int = 500
) -> list[Event[str]]:
    """What the table has on the far side of an id."""
    rows = await broker.ask(
        f"select data from broadcaster where channel = $1 and id {which} limit $3",
        *(name, int(id.rpartition("-")[2]), limit),
    )
    return [Event(name, row["data"].decode()) for row in rows]
