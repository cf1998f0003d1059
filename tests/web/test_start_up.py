"""What a lifespan refuses before it connects: routes that could never work."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from fastapi_broadcaster import (
    Broadcaster,
    Channel,
    ChannelNameError,
    ChannelTemplate,
    EventStreamResponse,
    MemoryBackend,
    Subscriber,
    UnsupportedError,
    channel,
    channel_router,
    subscriber,
)


class Note(BaseModel):
    text: str


class Other(BaseModel):
    text: str


notes = ChannelTemplate("notes.{board}", Note)
others = ChannelTemplate("others.{board}", Other)
# nothing answers there: what is refused at start-up is refused before it connects
NOWHERE = "redis://127.0.0.1:1"


def start(app: FastAPI) -> None:
    with TestClient(app):
        pass


def add_route(app: FastAPI | APIRouter, declared: Any, dependency: Any) -> None:
    async def route(events: Any) -> None: ...

    route.__annotations__["events"] = Annotated[declared, Depends(dependency)]
    app.get("/notes/{board}")(route)


@pytest.mark.parametrize(
    "options",
    [
        {"history": 5},
        {"history": "all"},
        {"history": timedelta(hours=1)},
        {"latest": True},
        {"after": "1-1"},
        {"overflow": "catch_up"},
    ],
)
@pytest.mark.parametrize("where", ["app", "router", "mounted", "nested"])
def test_history_without_a_log(options: dict[str, Any], where: str) -> None:
    app = FastAPI(lifespan=Broadcaster(NOWHERE).lifespan)
    dependency: Any = subscriber(notes, **options)
    if where == "app":
        add_route(app, Subscriber[Note], dependency)
    elif where == "router":
        router = APIRouter()
        add_route(router, Subscriber[Note], dependency)
        app.include_router(router, prefix="/v1")
    elif where == "mounted":
        inner = FastAPI()
        add_route(inner, Subscriber[Note], dependency)
        app.mount("/inner", inner)
    else:

        async def between(events: Annotated[Subscriber[Note], Depends(dependency)]) -> object:
            return events

        between.__annotations__["events"] = Annotated[Subscriber[Note], Depends(dependency)]
        add_route(app, object, between)
    with pytest.raises(UnsupportedError, match="redis-stream://") as raised:
        start(app)
    [note] = raised.value.__notes__
    assert "/notes/{board}" in note
    assert "notes.{board}" in note


def test_history_of_a_channel_router_without_a_log() -> None:
    app = FastAPI(lifespan=Broadcaster(NOWHERE).lifespan)
    app.include_router(channel_router(notes, "/notes/{board}", history=50))
    with pytest.raises(UnsupportedError, match="redis-stream://"):
        start(app)


def test_an_app_that_serves_both_asks_before_it_connects() -> None:
    assert Broadcaster("memory://").has_history
    broadcaster = Broadcaster(NOWHERE, connect_timeout=0.5)
    assert not broadcaster.has_history
    app = FastAPI(lifespan=Broadcaster("memory://").lifespan)
    app.include_router(channel_router(notes, "/notes/{board}", history=50))
    start(app)


@pytest.mark.parametrize(
    ("declared", "dependency", "found"),
    [
        (Channel[Other], channel(notes), "Other"),
        (Channel[str], channel(notes), "str"),
        (Channel[Note], channel("notes"), "Note"),
        (Subscriber[Other], subscriber(notes), "Other"),
        (Subscriber[Note], subscriber(notes, others), "Note"),
    ],
)
def test_an_annotation_that_is_not_the_templates_type(
    declared: Any, dependency: Any, found: str
) -> None:
    app = FastAPI(lifespan=Broadcaster("memory://").lifespan)
    add_route(app, declared, dependency)
    with pytest.raises(TypeError, match=re.escape("/notes/{board}")) as raised:
        start(app)
    assert "'events'" in str(raised.value)
    assert found in str(raised.value)


@pytest.mark.parametrize(
    ("declared", "dependency", "given"),
    [
        (Channel[Note], subscriber(notes), "Subscriber"),
        (Channel, subscriber(notes), "Subscriber"),
        (Subscriber[Note], channel(notes), "Channel"),
    ],
)
def test_an_annotation_of_the_other_kind(declared: Any, dependency: Any, given: str) -> None:
    """Only a request told of it, with an AttributeError."""
    app = FastAPI(lifespan=Broadcaster("memory://").lifespan)
    add_route(app, declared, dependency)
    with pytest.raises(TypeError, match=f"gives a {given}: write Depends") as raised:
        start(app)
    assert "'events' of the route '/notes/{board}'" in str(raised.value)


@pytest.mark.parametrize(
    ("declared", "dependency"),
    [
        (Channel[Note], channel(notes)),
        (Channel[Any], channel(notes)),
        (Channel[str], channel("notes")),
        (Channel, channel(notes)),
        (Any, channel(notes)),
        (Subscriber[Note], subscriber(notes)),
        (Subscriber[Note | Other], subscriber(notes, others)),
        (Subscriber[Other | Note], subscriber(notes, others)),
    ],
)
def test_annotations_that_fit(declared: Any, dependency: Any) -> None:
    app = FastAPI(lifespan=Broadcaster("memory://").lifespan)
    add_route(app, declared, dependency)
    start(app)


class Picky(MemoryBackend):
    """As a broker that cannot carry every name."""

    def check_name(self, name: str) -> None:
        if ":" in name:
            raise ChannelNameError(f"{name!r} has a colon")


def test_a_fixed_name_that_the_backend_cannot_carry() -> None:
    app = FastAPI(lifespan=Broadcaster(backend=Picky()).lifespan)
    template = ChannelTemplate("notes:{board}", Note)
    app.include_router(channel_router(template, "/notes/{board}"))
    with pytest.raises(ChannelNameError, match="colon") as raised:
        start(app)
    assert any("notes:{board}" in note for note in raised.value.__notes__)


def test_a_route_of_another_broadcaster_is_not_checked_against_this_one() -> None:
    log = Broadcaster("memory://")
    app = FastAPI(lifespan=Broadcaster(backend=Picky()).lifespan)
    template = ChannelTemplate("notes:{board}", Note)
    app.include_router(
        channel_router(template, "/notes/{board}", history=5, broadcaster=log, name="log")
    )
    start(app)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "1 to 1,000 characters"),
        ("x" * 1_001, "1 to 1,000 characters"),
        ("a\nb", "control character"),
        ("rooms.{room", "may not hold"),
        ("rooms.*", "may not hold"),
        ("rooms-{room}", "whole segment"),
        ("{a}{b}", "whole segment"),
        ("rooms.{room}.{room}", "twice"),
        ("rooms.{1}", "not a parameter name"),
        ("rooms.{}", "not a parameter name"),
    ],
)
def test_templates_that_are_refused_where_they_are_declared(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ChannelTemplate(name, Note)


@pytest.mark.parametrize(
    ("misspelt", "hint"),
    [
        ("histroy", "did you mean history="),
        ("bufer_size", "did you mean buffer_size="),
        ("x", "on_in"),
    ],
)
def test_a_misspelt_option_is_named_with_the_one_that_was_meant(misspelt: str, hint: str) -> None:
    broadcaster, options = Broadcaster("memory://"), {misspelt: 1}
    refusal = re.escape(f"() has no option {misspelt}=: ") + f".*{hint}"
    with pytest.raises(TypeError, match=refusal):
        broadcaster.subscribe("a", **options)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=refusal):
        broadcaster.channel("a").subscribe(**options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=refusal):
        subscriber(notes, **options)  # type: ignore[call-overload]


def test_closed_choices_are_refused_where_they_are_written() -> None:
    with pytest.raises(TypeError, match="one to four"):
        subscriber()  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="overflow="):
        subscriber(notes, overflow="never")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="history="):
        subscriber(notes, history=-1)
    with pytest.raises(ValueError, match="one line"):
        EventStreamResponse(Broadcaster("memory://").subscribe("a"), event="a\nb")
