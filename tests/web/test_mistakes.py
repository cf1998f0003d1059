"""Mistakes that are easily made, and what is said about them."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Annotated, Any, Literal

import pytest
from fastapi import Depends, FastAPI, Path, Query, Request
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field

from fastapi_broadcaster import (
    Broadcaster,
    Channel,
    ChannelTemplate,
    EventStreamResponse,
    Page,
    PageError,
    SerializationError,
    channel,
    channel_router,
    relay,
)
from tests.conformance.tools import PATIENCE, until
from tests.regressions.peers import Browser, opened
from tests.regressions.peers import Page as SocketPage


class Said(BaseModel):
    kind: Literal["said"] = "said"
    text: str


class Left(BaseModel):
    kind: Literal["left"] = "left"


Item = Annotated[Said | Left, Field(discriminator="kind")]
rooms = ChannelTemplate("rooms.{room}", Said)
texts = ChannelTemplate("texts.{room}", str)


# -- options of streams -------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["ping", "max_age", "send_timeout"])
@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
async def test_times_of_an_event_stream_are_above_zero(option: str, seconds: float) -> None:
    """Pings without a pause, and streams that end at once and come back at once."""
    options: dict[str, Any] = {option: seconds}
    events = Broadcaster("memory://").subscribe("c")
    with pytest.raises(ValueError, match=f"{option}= is more than 0 seconds, or None"):
        EventStreamResponse(events, **options)
    EventStreamResponse(events, ping=None, max_age=None, send_timeout=None)


async def test_the_time_of_a_socket_is_above_zero() -> None:
    async with Broadcaster("memory://") as broadcaster, broadcaster.subscribe("c") as events:
        with pytest.raises(ValueError, match="send_timeout= is more than 0 seconds, or None"):
            async with asyncio.timeout(PATIENCE):
                await relay(SocketPage().socket, events, send_timeout=0)


@pytest.mark.parametrize("taken", ["gap", "end"])
async def test_names_of_the_streams_own_frames_are_taken(
    taken: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Broadcaster("memory://") as broadcaster:
        with pytest.raises(ValueError, match=f"event='{taken}' is taken"):
            EventStreamResponse(broadcaster.subscribe(name), event=taken)
        browser = Browser()
        async with broadcaster.subscribe(name) as events:
            async with opened(EventStreamResponse(events, event=lambda text: text), browser):
                for text in (taken, "said"):
                    await broadcaster.publish(name, text)
                await until(lambda: browser.data)
            assert browser.data == ["said"]
            assert events.invalid == 1
    assert "is taken" in caplog.text


async def test_each_kind_of_error_is_logged(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The second mistake of a developer was not told within ten seconds of the first."""
    caplog.set_level(logging.WARNING, "fastapi_broadcaster")

    def entitle(text: str) -> str:
        if text == "key":
            raise KeyError(text)
        return "two\nlines" if text == "lines" else "said"

    browser = Browser()
    async with (
        Broadcaster("memory://") as broadcaster,
        broadcaster.subscribe(name) as events,
        opened(EventStreamResponse(events, event=entitle, until=lambda t: 1 / len(t) > 1), browser),
    ):
        for text in ("key", "", "lines", "fine"):
            await broadcaster.publish(name, text)
        await until(lambda: browser.data)
    lines = "\n".join(line for line in caplog.messages if name in line)
    assert re.findall(r"(\S+=) failed: (\w+)", lines) == [
        ("event=", "KeyError"),
        ("until=", "ZeroDivisionError"),
        ("event=", "ValueError"),
    ]


@pytest.mark.parametrize("given", [None, "channel", "rooms.lobby"])
async def test_what_an_event_stream_takes(given: Any) -> None:
    broadcaster = Broadcaster("memory://")
    events: Any = broadcaster.channel("c") if given == "channel" else given
    with pytest.raises(TypeError, match=r"takes a Subscriber or channel\.subscribe\("):
        EventStreamResponse(events)


async def test_what_a_relay_takes() -> None:
    async with Broadcaster("memory://") as broadcaster:
        target = broadcaster.channel("c")
        unentered: Any = target.subscribe()
        with pytest.raises(TypeError, match=r"async with channel\.subscribe"):
            await relay(SocketPage().socket, unentered)
        async with target.subscribe() as events:
            with pytest.raises(TypeError, match="publish_to=channel"):
                async with asyncio.timeout(PATIENCE):
                    await relay(SocketPage().socket, events, on_message=target.publish)


def test_a_union_is_called_by_its_members() -> None:
    items = ChannelTemplate("items", Item)
    with pytest.raises(SerializationError, match=r"not a valid Said \| Left: "):
        items.codec.from_frame('{"kind": "gone"}')
    assert repr(items) == "ChannelTemplate('items', Said | Left)"


# -- pages --------------------------------------------------------------------------------------


def paging_app() -> FastAPI:
    """One route of one's own, one that is generated."""
    app = FastAPI(lifespan=Broadcaster("memory://").lifespan)
    app.include_router(channel_router(texts, "/texts/{room}"))

    @app.get("/own/{room}")
    async def read(
        target: Annotated[Channel[str], Depends(channel(texts))],
        limit: int = 10,
        before: str | None = None,
        after: str | None = None,
    ) -> Page[str]:
        return await target.page(limit=limit, before=before, after=after)

    return app


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("limit=0", "limit must be 1 to 1000, not 0"),
        ("limit=-1", "limit must be 1 to 1000, not -1"),
        ("limit=1001", "limit must be 1 to 1000, not 1001"),
        ("before=a&after=b", "give before= or after=, not both"),
    ],
)
def test_a_page_that_cannot_be_is_the_clients_error(query: str, why: str) -> None:
    with TestClient(paging_app()) as client:
        answer = client.get(f"/own/x?{query}")
    assert (answer.status_code, answer.json()) == (422, {"detail": why})


def test_an_id_that_is_empty_is_none() -> None:
    with TestClient(paging_app()) as client:
        client.post("/texts/x", json="hello")
        for path in ("/own/x", "/texts/x/history"):
            for query in ("before=", "after=", "before=&after="):
                answer = client.get(f"{path}?{query}")
                assert answer.status_code == 200
                assert [item["message"] for item in answer.json()["items"]] == ["hello"]


async def test_the_error_of_a_page_is_a_value_error() -> None:
    async with Broadcaster("memory://") as broadcaster:
        with pytest.raises(ValueError, match="limit must be") as raised:
            await broadcaster.channel("c").page(limit=0)
    assert isinstance(raised.value, PageError)


# -- channel_router -----------------------------------------------------------------------------


def test_a_path_begins_with_a_slash() -> None:
    with pytest.raises(ValueError, match=r"'rooms/\{room\}' wants a / at its beginning"):
        channel_router(rooms, "rooms/{room}")


@pytest.mark.parametrize("websocket", [False, True])
def test_a_path_has_the_parameters_of_its_template(websocket: bool) -> None:
    why = r"the path '/rooms/\{name\}' has the parameter 'name'.*has 'room'"
    with pytest.raises(ValueError, match=why):
        channel_router(
            rooms,
            "/rooms/{name}",
            publish=not websocket,
            stream=not websocket,
            page=None if not websocket else False,
            websocket=websocket,
        )


def test_what_a_router_is_made_of() -> None:
    name: Any = "rooms"
    with pytest.raises(TypeError, match="takes a ChannelTemplate, not 'rooms'"):
        channel_router(name, "/rooms")


async def current_team(team: str) -> str:
    return team


async def by_request(request: Request) -> str:
    return str(request.path_params["tenant"])


@pytest.mark.parametrize(
    ("template", "path", "prefix", "url"),
    [
        (texts, "", "/texts/{room}", "/texts/x"),
        (texts, "/texts", "", "/texts?room=x"),
        (texts, "/{room}", "/teams/{team}", "/teams/t/x"),
        (texts, "/{tenant}/{room:path}", "", "/t/x"),
        (texts.bind(room=Path(alias="name")), "/texts/{name}", "", "/texts/x"),
        (texts.bind(room=Query()), "/texts", "", "/texts?room=x"),
        (texts.bind(room=Depends(current_team)), "/teams/{team}", "", "/teams/x"),
        (texts.bind(room="x"), "/any/{thing}", "", "/any/y"),
    ],
)
def test_paths_that_are_right(
    template: ChannelTemplate[str], path: str, prefix: str, url: str
) -> None:
    app = FastAPI(lifespan=Broadcaster("memory://").lifespan)
    app.include_router(channel_router(template, path, websocket=False), prefix=prefix)
    with TestClient(app) as client:
        answer = client.post(url, json="hello")
    assert (answer.status_code, answer.json()["channel"]) == (202, "texts.x")


def test_a_parameter_that_a_dependency_reads() -> None:
    router = channel_router(
        texts, "/{tenant}/{room}", websocket=False, publish_dependencies=[Depends(by_request)]
    )
    app = FastAPI(lifespan=Broadcaster("memory://").lifespan)
    app.include_router(router)
    with TestClient(app) as client:
        assert client.post("/t/x", json="hello").json()["channel"] == "texts.x"


def test_openapi_tells_what_the_id_is_for() -> None:
    app = FastAPI(lifespan=Broadcaster("memory://").lifespan)
    app.include_router(channel_router(texts, "/texts/{room}"))
    parameters = app.openapi()["paths"]["/texts/{room}/events"]["get"]["parameters"]
    told = {one["name"]: one.get("description") for one in parameters if one["name"] != "room"}
    assert set(told) == {"Last-Event-ID", "last_event_id"}
    assert all("go on behind" in str(text) for text in told.values())
