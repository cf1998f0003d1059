"""What the pages beside the tutorial show and say in tables."""

from __future__ import annotations

import asyncio
from typing import Annotated

import pytest
from fastapi import Body, Depends, FastAPI
from fastapi.testclient import TestClient

from docs_src.guarantees.gaps import follow
from docs_src.migration.app import app as chatroom
from docs_src.tutorial.history import ChatMessage, rooms
from fastapi_broadcaster import (
    BackendUnavailableError,
    Broadcaster,
    Channel,
    ChannelNameError,
    ChannelTemplate,
    EventStreamResponse,
    NotConnectedError,
    Receipt,
    Subscriber,
    UnsupportedError,
    channel,
    subscriber,
)
from servers import free_port
from tests.conformance.tools import until


def test_the_chatroom_of_those_who_migrate() -> None:
    with (
        TestClient(chatroom) as client,
        client.websocket_connect("/") as ada,
        client.websocket_connect("/") as bob,
    ):
        ada.send_text("hello")
        assert ada.receive_text() == bob.receive_text() == "hello"


async def test_gaps_in_ones_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    async with Broadcaster("memory://") as broadcaster:
        following = asyncio.create_task(follow(broadcaster))
        await until(lambda: broadcaster.health().subscribers)
        prices = broadcaster.channel("prices")
        await asyncio.gather(*(prices.publish(str(number)) for number in range(1_000)))
        told: list[str] = []

        def last_is_told() -> bool:
            told.extend(capsys.readouterr().out.splitlines())
            return told[-1:] == ["999"]

        await until(last_is_told)
        broadcaster.drain()
        await following
    missed = sum(int(line.split()[0]) for line in told if "missing" in line)
    assert missed > 0
    assert missed + sum("missing" not in line for line in told) == 1_000


def _app(broadcaster: Broadcaster) -> FastAPI:
    app = FastAPI(lifespan=broadcaster.lifespan)

    @app.post("/notes/{note}")
    async def write(
        note: Annotated[Channel[str], Depends(channel(ChannelTemplate("notes.{note}")))],
        text: Annotated[str, Body()],
    ) -> Receipt:
        return await note.publish(text)

    @app.get("/notes/{note}")
    async def read(
        note: Annotated[Subscriber[str], Depends(subscriber(ChannelTemplate("notes.{note}")))],
    ) -> EventStreamResponse:
        return EventStreamResponse(note)

    return app


def test_statuses_of_the_table_of_errors() -> None:
    broadcaster = Broadcaster("memory://", max_message_size=10)
    with TestClient(_app(broadcaster)) as client:
        assert client.post("/notes/a", json="x" * 10).status_code == 200
        assert client.post("/notes/a", json="x" * 11).status_code == 413
        assert client.post("/notes/a", json=1).status_code == 422
        assert client.post("/notes/a.b", json="x").status_code == 422
        assert client.get("/notes/a.b").status_code == 422


def test_errors_at_start_up() -> None:
    with pytest.raises(ValueError, match="memory://, redis://"):
        Broadcaster("carrier-pigeon://")
    with pytest.raises(ValueError, match="no_such_option"):
        Broadcaster("redis://localhost?no_such_option=1")
    with pytest.raises(NotConnectedError):
        TestClient(_app(Broadcaster("memory://"))).post("/notes/a", json="x")


async def test_a_broker_that_is_away_at_start_up_is_named_without_its_password() -> None:
    port = free_port()
    broadcaster = Broadcaster(f"redis://:secret@127.0.0.1:{port}", connect_timeout=5)
    with pytest.raises(BackendUnavailableError, match=f"127.0.0.1:{port}") as error:
        await broadcaster.connect()
    assert "secret" not in str(error.value)


def test_history_without_a_log_is_refused_at_start_up() -> None:
    broadcaster = Broadcaster("redis://localhost")
    app = FastAPI(lifespan=broadcaster.lifespan)

    @app.get("/", dependencies=[Depends(subscriber(rooms.bind(room="lobby"), history=5))])
    async def listen() -> None:
        """Never reached."""

    with pytest.raises(UnsupportedError, match=r"keeps no log.*use redis-stream://"):
        broadcaster.lifespan(app)


def test_a_name_that_kafka_cannot_carry_is_refused_at_start_up() -> None:
    broadcaster = Broadcaster("kafka://localhost")
    app = FastAPI(lifespan=broadcaster.lifespan)

    @app.get("/", dependencies=[Depends(subscriber("news:today"))])
    async def listen() -> None:
        """Never reached."""

    with pytest.raises(ChannelNameError, match=r"\?topic="):
        broadcaster.lifespan(app)


async def test_names_of_events_by_a_function_of_the_message() -> None:
    """As the page about typed channels has it."""
    broadcaster = Broadcaster("memory://")
    app = FastAPI(lifespan=broadcaster.lifespan)

    @app.get("/rooms/{room}")
    async def listen(
        events: Annotated[Subscriber[ChatMessage], Depends(subscriber(rooms, history="all"))],
    ) -> EventStreamResponse:
        return EventStreamResponse(events, event=lambda message: message.user)

    with TestClient(app) as client:
        for user in ("ada", "bob"):
            lobby = broadcaster.channel(rooms, room="lobby")
            await asyncio.to_thread(lobby.publish_sync, ChatMessage(user=user, text="Hi"))
        with client.stream("GET", "/rooms/lobby") as response:
            names = (line for line in response.iter_lines() if line.startswith("event: "))
            assert [next(names), next(names)] == ["event: ada", "event: bob"]


def test_a_second_broadcaster_is_checked_by_its_own_lifespan() -> None:
    """As the deployment notes have it; by `async with` alone its routes are not checked."""
    main, second = Broadcaster("memory://"), Broadcaster("redis://localhost")
    app = FastAPI()

    @app.get("/", dependencies=[Depends(subscriber("a", history=5, broadcaster=second))])
    async def listen() -> None:
        """Never reached."""

    main.lifespan(app)
    with pytest.raises(UnsupportedError, match="keeps no log"):
        second.lifespan(app)


def test_the_type_of_an_annotation_is_compared_at_start_up() -> None:
    broadcaster = Broadcaster("memory://")
    app = FastAPI(lifespan=broadcaster.lifespan)

    @app.post("/rooms/{room}")
    async def say(room: Annotated[Channel[str], Depends(channel(rooms))]) -> Receipt:
        return await room.publish("x")

    with pytest.raises(TypeError, match="carries"):
        broadcaster.lifespan(app)
