"""GET path/history of a channel_router, over a real server: pages, limits, errors, OpenAPI."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fastapi_broadcaster import Broadcaster, ChannelTemplate, UnsupportedError, channel_router
from servers import Redis

from .clients import WAIT, open_events, post, until
from .processes import WebServer


@pytest.fixture(scope="module")
def redis_log() -> Iterator[Redis]:
    with Redis.private() as server:
        yield server


@pytest.fixture(scope="module")
def no_log_server(redis_log: Redis) -> Iterator[WebServer]:
    with WebServer("rooms:app", environment={"BROADCASTER_URL": redis_log.url}) as server:
        yield server


async def get(url: str, **query: str | int) -> httpx2.Response:
    async with httpx2.AsyncClient(timeout=WAIT) as client:
        return await client.get(url, params=query)


async def fill(server: WebServer, room: str, count: int) -> list[str]:
    """Publish "0", "1", ... as texts and return their ids."""
    answer = await post(f"{server.url}/fill/{room}?count={count}", None)
    ids: list[str] = answer.json()
    return ids


def texts(page: dict[str, Any]) -> list[str]:
    return [item["message"] for item in page["items"]]


async def test_the_newest_page(rooms: WebServer, name: str) -> None:
    said = [{"text": "a", "likeCount": 1}, {"text": "b", "likeCount": 0}]
    ids = [(await post(f"{rooms.url}/rooms/{name}", one)).json()["id"] for one in said]
    answer = await get(f"{rooms.url}/rooms/{name}/history")
    assert answer.status_code == 200
    page = answer.json()
    assert set(page) == {"items", "next", "previous"}
    assert [item["message"] for item in page["items"]] == said
    assert [item["id"] for item in page["items"]] == ids
    assert {item["channel"] for item in page["items"]} == {f"rooms.{name}"}
    assert all(item["time"].endswith("Z") for item in page["items"])
    assert (page["next"], page["previous"]) == (None, None)


async def test_an_empty_channel(rooms: WebServer, name: str) -> None:
    page = (await get(f"{rooms.url}/texts/{name}/history")).json()
    assert page == {"items": [], "next": None, "previous": None}


async def test_back_and_forth(rooms: WebServer, name: str) -> None:
    await fill(rooms, name, 25)
    url, everything = f"{rooms.url}/texts/{name}/history", [str(n) for n in range(25)]
    page = (await get(url, limit=10)).json()
    pages = [page]
    while page["previous"] is not None:
        page = (await get(url, limit=10, before=page["previous"])).json()
        pages.append(page)
    assert [len(one["items"]) for one in pages] == [10, 10, 5]
    assert [text for one in reversed(pages) for text in texts(one)] == everything
    forth = texts(page)
    while page["next"] is not None:
        page = (await get(url, limit=10, after=page["next"])).json()
        forth += texts(page)
    assert forth == everything


async def test_limits(rooms: WebServer, name: str) -> None:
    await fill(rooms, name, 110)
    url = f"{rooms.url}/texts/{name}/history"
    assert texts((await get(url)).json()) == [str(n) for n in range(10, 110)]
    assert len((await get(url, limit=1_000)).json()["items"]) == 110
    assert texts((await get(url, limit=1)).json()) == ["109"]
    for wrong in (0, -1, 1_001, "ten"):
        answer = await get(url, limit=wrong)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["query", "limit"]


async def test_before_and_after_at_once(rooms: WebServer, name: str) -> None:
    [one, two] = await fill(rooms, name, 2)
    answer = await get(f"{rooms.url}/texts/{name}/history", before=two, after=one)
    assert answer.status_code == 422
    assert "not both" in answer.json()["detail"][0]["msg"]


@pytest.mark.parametrize("way", ["before", "after"])
async def test_ids_that_are_not_of_this_log(rooms: WebServer, name: str, way: str) -> None:
    await fill(rooms, name, 1)
    for foreign in ("x", "~live", "~m.e30", "ffffffff-1-1", "é"):
        answer = await get(f"{rooms.url}/texts/{name}/history", **{way: foreign})
        assert answer.status_code == 410, foreign
        assert answer.json()["detail"]


async def test_an_id_that_was_trimmed_away(rooms: WebServer, name: str) -> None:
    [first] = await fill(rooms, name, 1)
    await fill(rooms, name, 130)  # the log keeps 120
    answer = await get(f"{rooms.url}/texts/{name}/history", after=first)
    assert answer.status_code == 410
    assert "no longer reaches back" in answer.json()["detail"]


async def test_values_of_the_template(rooms: WebServer, name: str) -> None:
    await fill(rooms, name, 1)
    assert (await get(f"{rooms.url}/texts/a.b/history")).status_code == 422
    assert (await get(f"{rooms.url}/texts-in/history")).status_code == 422
    assert texts((await get(f"{rooms.url}/texts-in/history", room=name)).json()) == ["0"]


async def test_messages_look_as_they_were_published(rooms: WebServer) -> None:
    for path, message in [("blobs", "AAECgP8="), ("anything", {"a": [1, None, "x"]})]:
        assert (await post(f"{rooms.url}/{path}", message)).status_code == 202
        page = (await get(f"{rooms.url}/{path}/history", limit=1)).json()
        assert [item["message"] for item in page["items"]] == [message]


async def test_subscribe_dependencies_guard_it(rooms: WebServer, name: str) -> None:
    await fill(rooms, name, 1)
    url = f"{rooms.url}/guarded/{name}/history"
    assert (await get(url)).status_code == 403
    assert texts((await get(url, key="open")).json()) == ["0"]


async def test_a_stream_goes_on_behind_a_page(rooms: WebServer, name: str) -> None:
    await fill(rooms, name, 3)
    page = (await get(f"{rooms.url}/texts/{name}/history", limit=2)).json()
    last = page["items"][-1]["id"]
    await fill(rooms, name, 2)
    url = f"{rooms.url}/texts/{name}/events?last_event_id={last}"
    async with open_events(url) as events:
        assert [(await events.event()).json for _ in range(2)] == ["0", "1"]


async def test_openapi(rooms: WebServer) -> None:
    document = (await get(f"{rooms.url}/openapi.json")).json()
    schemas = document["components"]["schemas"]
    operation = document["paths"]["/rooms/{room}/history"]["get"]

    def schema_of(node: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = schemas[node["$ref"].removeprefix("#/components/schemas/")]
        return found

    content = operation["responses"]["200"]["content"]["application/json"]
    page = schema_of(content["schema"])
    assert set(page["properties"]) == {"items", "next", "previous"}
    event = schema_of(page["properties"]["items"]["items"])
    assert set(event["properties"]) == {"channel", "message", "id", "time", "params"}
    said = schema_of(event["properties"]["message"])
    assert set(said["properties"]) == {"text", "likeCount"}
    assert set(operation["responses"]) == {"200", "410", "422", "501", "503"}
    assert all(one["description"] for one in operation["responses"].values())
    given = {one["name"]: one for one in operation["parameters"]}
    assert set(given) == {"room", "limit", "before", "after"}
    limit = given["limit"]["schema"]
    assert (limit["minimum"], limit["maximum"], limit["default"]) == (1, 1_000, 100)
    assert "`previous`" in given["before"]["description"]
    assert "`next`" in given["after"]["description"]
    assert "`previous` leads back as `before`" in operation["description"]


async def test_without_a_log_it_says_what_has_one(no_log_server: WebServer, name: str) -> None:
    assert (await post(f"{no_log_server.url}/texts/{name}", "hello")).status_code == 202
    answer = await get(f"{no_log_server.url}/texts/{name}/history")
    assert answer.status_code == 501
    assert "redis-stream://" in answer.json()["detail"]
    assert "127.0.0.1" not in answer.text  # where the broker is concerns no client


def start(url: str, **options: Any) -> None:
    app = FastAPI(lifespan=Broadcaster(url, connect_timeout=0.5).lifespan)
    template = ChannelTemplate("texts.{room}", str)
    app.include_router(channel_router(template, "/texts/{room}", **options))
    with TestClient(app):
        pass


@pytest.mark.parametrize("options", [{"page": True}, {"latest": True}, {"history": 5}])
def test_what_is_asked_for_without_a_log_is_refused_at_start_up(options: dict[str, Any]) -> None:
    start("memory://", **options)
    for url, instead in [
        ("redis://127.0.0.1:1", "redis-stream://"),
        ("postgres://127.0.0.1:1/x", "postgres-stream://"),
        ("amqp://127.0.0.1:1", "amqp-stream://"),
    ]:
        with pytest.raises(UnsupportedError, match=instead) as raised:
            start(url, **options)
        [note] = raised.value.__notes__
        assert "/texts/{room}" in note


@pytest.mark.parametrize("options", [{}, {"page": False}])
def test_nothing_is_asked_for_by_default(redis_log: Redis, options: dict[str, Any]) -> None:
    start(redis_log.url, **options)


async def test_broker_away(name: str) -> None:
    with Redis.private() as redis:
        environment = {"BROADCASTER_URL": redis.url.replace("redis://", "redis-stream://")}
        with WebServer("rooms:app", environment=environment) as server:
            await fill(server, name, 3)
            url = f"{server.url}/texts/{name}/history"
            assert texts((await get(url)).json()) == ["0", "1", "2"]
            await asyncio.to_thread(redis.kill)
            answer = await get(url)
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json() == {"detail": "the broker is not reachable"}
            assert "Traceback" not in server.log
            await asyncio.to_thread(redis.start)

            async def answers() -> bool:
                return (await get(url)).status_code == 200

            await until(answers, "a page after the outage")
