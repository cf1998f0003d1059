"""Coming back to an event stream: by header, by query parameter, with ids that mean nothing."""

from __future__ import annotations

import asyncio

import pytest

from servers import Redis

from .clients import get_json, open_events, post, until
from .processes import WebServer


async def publish(server: WebServer, name: str, *texts: str) -> list[str]:
    """Publish and return the ids of the receipts."""
    receipts = [await post(f"{server.url}/notes/{name}", {"text": text}) for text in texts]
    assert [receipt.status_code for receipt in receipts] == [202] * len(texts)
    return [receipt.json()["id"] for receipt in receipts]


async def test_history_without_an_id(board: WebServer, name: str) -> None:
    await publish(board, name, "a", "b", "c")
    async with open_events(f"{board.url}/notes/{name}/recent") as events:
        first = await events.frame()
        assert first.retry is not None
        assert first.id is None  # what is replayed brings its own
        assert [(await events.event()).json["text"] for _ in "bc"] == ["b", "c"]


@pytest.mark.parametrize("route", ["events", "recent", "lazy"])
async def test_the_header_wins_over_the_query_which_wins_over_history(
    board: WebServer, name: str, route: str
) -> None:
    a, b, c, d, _ = await publish(board, name, "a", "b", "c", "d", "e")
    url = f"{board.url}/notes/{name}/{route}"
    async with open_events(url, headers={"Last-Event-ID": a}) as events:
        assert [(await events.event()).json["text"] for _ in "bcde"] == ["b", "c", "d", "e"]
    async with open_events(f"{url}?last_event_id={b}") as events:
        assert [(await events.event()).json["text"] for _ in "cde"] == ["c", "d", "e"]
    async with open_events(f"{url}?last_event_id={d}", headers={"Last-Event-ID": c}) as events:
        assert (await events.event()).json["text"] == "d"


async def test_resume_from_the_starting_id(board: WebServer, name: str) -> None:
    async with open_events(f"{board.url}/notes/{name}/events") as events:
        start = (await events.frame()).id
    assert start is not None
    await publish(board, name, "first")
    headers = {"Last-Event-ID": start}
    async with open_events(f"{board.url}/notes/{name}/events", headers=headers) as events:
        event = await events.event()
        assert (event.event, event.json["text"]) == (None, "first")


async def test_every_event_once_over_many_reconnects(board: WebServer, name: str) -> None:
    async def speak() -> None:
        for number in range(100):
            await post(f"{board.url}/notes/{name}", {"text": str(number)})

    got: list[str] = []
    async with open_events(f"{board.url}/notes/{name}/events") as events:
        last = (await events.frame()).id
    speaker = asyncio.create_task(speak())
    while len(got) < 100:
        headers = {"Last-Event-ID": str(last)}
        async with open_events(f"{board.url}/notes/{name}/events", headers=headers) as events:
            for _ in range(min(7, 100 - len(got))):
                event = await events.event()
                assert event.event is None
                got.append(event.json["text"])
                last = event.id
    await speaker
    assert got == [str(number) for number in range(100)]


@pytest.mark.parametrize("foreign", ["x", "1-2", "~m.e30", "ffffffff-1-1", "~live", "é", "0" * 500])
async def test_foreign_id_is_a_gap_and_then_as_if_none_had_been_sent(
    board: WebServer, name: str, foreign: str
) -> None:
    await publish(board, name, "a", "b", "c")
    headers = {"Last-Event-ID": foreign}
    async with open_events(f"{board.url}/notes/{name}/recent", headers=headers) as events:
        gap = await events.event()
        assert gap.event == "gap"
        assert gap.json == {"channel": f"notes.{name}", "reason": "reset", "missed": None}
        assert [(await events.event()).json["text"] for _ in "bc"] == ["b", "c"]
    async with open_events(f"{board.url}/notes/{name}/events", headers=headers) as events:
        gap = await events.event()
        assert (gap.event, gap.json["reason"]) == ("gap", "reset")
        await publish(board, name, "d")
        assert (await events.event()).json["text"] == "d"
    # the id at the gap leads on, so that the next reconnect is told no gap again
    headers = {"Last-Event-ID": str(gap.id)}
    async with open_events(f"{board.url}/notes/{name}/events", headers=headers) as events:
        event = await events.event()
        assert (event.event, event.json["text"]) == (None, "d")


async def test_live_id_without_a_log(redis_board: WebServer, name: str) -> None:
    url = f"{redis_board.url}/notes/{name}/events"
    async with open_events(url) as events:
        first = await events.frame()
        assert first.id == "~live"
        await publish(redis_board, name, "hello")
        event = await events.event()
        assert (event.id, event.json["text"]) == (None, "hello")
    for query, headers in [("", {"Last-Event-ID": "~live"}), ("?last_event_id=~live", {})]:
        async with open_events(url + query, headers=headers) as events:
            gap = await events.event()
            assert gap.event == "gap"
            assert gap.json == {"channel": f"notes.{name}", "reason": "reconnected", "missed": None}
            await publish(redis_board, name, "again")
            assert (await events.event()).json["text"] == "again"


async def test_foreign_id_without_a_log(redis_board: WebServer, name: str) -> None:
    headers = {"Last-Event-ID": "0a1b2c3d-4-5"}
    async with open_events(f"{redis_board.url}/notes/{name}/events", headers=headers) as events:
        gap = await events.event()
        assert (gap.event, gap.json["reason"]) == ("gap", "reset")


async def test_broker_restart_is_one_gap_in_the_stream(
    redis_server: Redis, redis_board: WebServer, name: str
) -> None:
    async with open_events(f"{redis_board.url}/notes/{name}/events") as events:
        await publish(redis_board, name, "before")
        assert (await events.event()).json["text"] == "before"
        await asyncio.to_thread(redis_server.kill)
        await asyncio.to_thread(redis_server.start)

        async def published() -> bool:
            answer = await post(f"{redis_board.url}/notes/{name}", {"text": "after"})
            return answer.status_code == 202

        await until(published, "a publish after the restart")
        gap, after = await events.event(), await events.event()
        assert (gap.event, gap.json["reason"]) == ("gap", "reconnected")
        assert (after.event, after.json["text"]) == (None, "after")

        async def one_listens() -> bool:
            return await get_json(f"{redis_board.url}/subscribers") == 1

        await until(one_listens, "a single subscription")
