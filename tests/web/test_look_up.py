"""How routes find their broadcaster: mounted apps, two of them, own lifespans, overrides."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.testclient import TestClient

from fastapi_broadcaster import (
    Broadcaster,
    BroadcasterDep,
    Channel,
    ChannelTemplate,
    EventStreamResponse,
    NotConnectedError,
    Receipt,
    Subscriber,
    channel,
    channel_router,
    get_broadcaster,
    map_errors,
    subscriber,
)
from fastapi_broadcaster.exceptions import BackendUnavailableError

from .clients import Frame

rooms = ChannelTemplate("rooms.{room}", str)
Room = Annotated[Channel[str], Depends(channel(rooms))]
router = APIRouter()


@router.post("/say/{room}")
async def say(room: Room) -> Receipt:
    return await room.publish("hello")


@router.get("/which")
async def which(broadcaster: BroadcasterDep) -> str:
    return broadcaster.health().backend + str(id(broadcaster))


@router.get("/listen/{room}", response_class=EventStreamResponse)
async def listen(
    events: Annotated[Subscriber[str], Depends(subscriber(rooms, history="all"))],
) -> EventStreamResponse:
    return EventStreamResponse(events)


def which_of(broadcaster: Broadcaster) -> str:
    return f"memory://{id(broadcaster)}"


def first_event(client: TestClient, url: str) -> Frame:
    """Read an event stream of the TestClient up to its first event."""
    text = ""
    with client.stream("GET", url) as answer:
        for chunk in answer.iter_text():
            text += chunk
            for block in text.split("\n\n")[:-1]:
                if (frame := Frame.parse(block)).data is not None:
                    return frame
    raise AssertionError(f"no event in {text!r}")


def check_app(app: FastAPI, broadcaster: Broadcaster, prefix: str = "") -> None:
    with TestClient(app) as client:
        assert client.get(f"{prefix}/which").json() == which_of(broadcaster)
        assert client.post(f"{prefix}/say/a").json()["channel"] == "rooms.a"
        assert first_event(client, f"{prefix}/listen/a").json == "hello"


def test_lifespan_of_the_app() -> None:
    broadcaster = Broadcaster("memory://")
    app = FastAPI(lifespan=broadcaster.lifespan)
    app.include_router(router)
    check_app(app, broadcaster)
    check_app(app, broadcaster)  # and again: it can be connected anew
    assert not hasattr(app.state, "broadcaster")


def test_included_router_with_prefix() -> None:
    broadcaster = Broadcaster("memory://")
    outer = APIRouter(prefix="/outer")
    outer.include_router(router, prefix="/inner")
    app = FastAPI(lifespan=broadcaster.lifespan)
    app.include_router(outer, prefix="/v1")
    check_app(app, broadcaster, "/v1/outer/inner")


def test_mounted_apps_however_deep() -> None:
    broadcaster = Broadcaster("memory://")
    app, inner, innermost = FastAPI(lifespan=broadcaster.lifespan), FastAPI(), FastAPI()
    innermost.include_router(router)
    inner.include_router(router)
    inner.mount("/deep", innermost)
    app.mount("/inner", inner)
    check_app(app, broadcaster, "/inner")
    check_app(app, broadcaster, "/inner/deep")


def test_a_mounted_app_may_have_its_own() -> None:
    one, two = Broadcaster("memory://"), Broadcaster("memory://")
    app, inner = FastAPI(), FastAPI()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with two.lifespan(inner), one.lifespan(app):
            yield

    app.router.lifespan_context = lifespan
    app.include_router(router)
    inner.include_router(router)
    app.mount("/inner", inner)
    check_app(app, one)
    check_app(app, two, "/inner")


def test_the_users_own_lifespan_around_ours() -> None:
    broadcaster = Broadcaster("memory://")
    steps: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        async with broadcaster.lifespan(app):
            await broadcaster.publish("rooms.start", "published in the lifespan")
            steps.append("up")
            yield {"mine": "still here"}
            await broadcaster.publish("rooms.end", "also at the end")
            steps.append("down")

    app = FastAPI(lifespan=lifespan)
    app.include_router(router)
    check_app(app, broadcaster)
    assert steps == ["up", "down"]


def test_two_broadcasters() -> None:
    main, second = Broadcaster("memory://"), Broadcaster("memory://")
    second_room = channel(rooms, broadcaster=second)
    second_events = subscriber(rooms, history="all", broadcaster=second)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with main.lifespan(app), second:
            yield

    app = FastAPI(lifespan=lifespan)
    app.include_router(router)
    app.include_router(channel_router(rooms, "/second/{room}", broadcaster=second, history="all"))

    @app.post("/say-second/{room}")
    async def say_second(room: Annotated[Channel[str], Depends(second_room)]) -> Receipt:
        return await room.publish("on the second")

    @app.get("/listen-second/{room}", response_class=EventStreamResponse)
    async def listen_second(
        events: Annotated[Subscriber[str], Depends(second_events)],
    ) -> EventStreamResponse:
        return EventStreamResponse(events)

    check_app(app, main)
    with TestClient(app) as client:
        assert client.post("/second/b", json="by the router").status_code == 202
        assert first_event(client, "/listen-second/b").json == "by the router"
        assert first_event(client, "/second/b/events").json == "by the router"
        client.post("/say/b")
        assert first_event(client, "/listen/b").json == "hello"


def test_override_replaces_it_and_keeps_the_mapping_of_errors() -> None:
    app = FastAPI()
    app.include_router(router)
    fake = Broadcaster("memory://", max_message_size=3)
    app.dependency_overrides[get_broadcaster] = lambda: fake

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with fake:
            yield

    app.router.lifespan_context = lifespan
    with TestClient(app) as client:
        assert client.get("/which").json() == which_of(fake)
        assert client.post("/say/a").status_code == 413
        assert client.post("/say/a:b").status_code == 422


def test_map_errors_alone() -> None:
    app = FastAPI()

    @app.get("/", dependencies=[Depends(map_errors)])
    async def fail() -> None:
        raise BackendUnavailableError("away")

    with TestClient(app) as client:
        answer = client.get("/")
    assert (answer.status_code, answer.json()) == (503, {"detail": "the broker is not reachable"})
    assert int(answer.headers["retry-after"]) > 0


def test_not_connected_at_all() -> None:
    broadcaster = Broadcaster("memory://")
    app = FastAPI(lifespan=broadcaster.lifespan)
    app.include_router(router)
    client = TestClient(app)  # without `with` no lifespan runs
    with pytest.raises(NotConnectedError, match="no broadcaster is connected") as raised:
        client.get("/which")
    assert "with TestClient(app) as client" in str(raised.value)


def test_connected_but_not_through_the_lifespan() -> None:
    broadcaster = Broadcaster("memory://")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with broadcaster:
            yield

    app = FastAPI(lifespan=lifespan)
    app.include_router(router)
    with TestClient(app) as client:
        with pytest.raises(NotConnectedError, match="not through this app's lifespan") as raised:
            client.get("/which")
        assert "broadcaster.lifespan(app)" in str(raised.value)
