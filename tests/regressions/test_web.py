"""What apps let through that they should not have, or told that was not for browsers."""

import logging
import time
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from fastapi.testclient import TestClient
from pydantic import AfterValidator, Field
from redis import Redis as RedisClient
from starlette.websockets import WebSocketDisconnect

from fastapi_broadcaster import (
    Broadcaster,
    Channel,
    ChannelNameError,
    ChannelTemplate,
    Event,
    Receipt,
    Subscriber,
    channel,
    channel_router,
    relay,
    subscriber,
)
from servers import Redis
from tests.conformance.tools import take_items


def test_two_templates_that_name_one_channel_give_its_messages_once() -> None:
    one, other = ChannelTemplate("rooms.{one}", str), ChannelTemplate("rooms.{other}", str)
    broadcaster = Broadcaster("memory://")
    app = FastAPI(lifespan=broadcaster.lifespan)
    both = subscriber(one, other, history=10)

    @app.get("/rooms")
    async def read(events: Annotated[Subscriber[str], Depends(both)]) -> list[str]:
        await broadcaster.publish("rooms.1", "live")
        await broadcaster.publish("rooms.1", "end")
        items = [await events.get()]
        while items[-1].message != "end":
            items.append(await events.get())
        return [item.message for item in items]

    with TestClient(app) as client:
        broadcaster.publish_sync("rooms.1", "a")
        broadcaster.publish_sync("rooms.1", "b")
        answer = client.get("/rooms", params={"one": "1", "other": "1"})
    assert answer.json() == ["a", "b", "live", "end"]


def test_allowed_origins_is_no_string() -> None:
    """`in` would find "https://app.example.co" in it."""
    broadcaster = Broadcaster("memory://")
    app = FastAPI(lifespan=broadcaster.lifespan)
    allowed: Any = "https://app.example.com"

    @app.websocket("/ws")
    async def ws(
        websocket: WebSocket, events: Annotated[Subscriber[str], Depends(subscriber("c"))]
    ) -> None:
        await relay(websocket, events, allowed_origins=allowed)

    with (
        TestClient(app) as client,
        pytest.raises(TypeError, match="allowed_origins"),
        client.websocket_connect("/ws", headers={"origin": "https://app.example.co"}),
    ):
        pass


async def test_a_pattern_with_a_bound_constant_hears_no_other_tenant() -> None:
    users = ChannelTemplate("tenants.{tenant}.{user}", str)
    async with (
        Broadcaster("memory://") as broadcaster,
        broadcaster.subscribe(pattern=users.bind(tenant="acme")) as events,
    ):
        for name in ("tenants.rival.bob", "tenants.acme.ann", "tenants.acmes.cid"):
            await broadcaster.publish(name, name)
        await broadcaster.publish("tenants.acme.end", "end")
        heard = await take_items(events, 2)
    assert [event.message for event in heard if isinstance(event, Event)] == [
        "tenants.acme.ann",
        "end",
    ]


async def current_user_id() -> str | None:
    return None


def test_nobody_has_no_channel() -> None:
    """A dependency that finds no user must not lead to a channel that all of them share."""
    users = ChannelTemplate("users.{user_id}", str)
    mine = users.bind(user_id=Depends(current_user_id))
    broadcaster = Broadcaster("memory://")
    app = FastAPI(lifespan=broadcaster.lifespan)

    @app.post("/mine")
    async def say(channel: Annotated[Channel[str], Depends(channel(mine))]) -> Receipt:
        return await channel.publish("hello")

    @app.get("/mine")
    async def hear(events: Annotated[Subscriber[str], Depends(subscriber(mine))]) -> str:
        return str(events.channels)

    with TestClient(app) as client:
        assert client.post("/mine").status_code == 422
        assert client.get("/mine").status_code == 422
    with pytest.raises(ChannelNameError):
        users.format(user_id=None)


def refuse(number: int) -> int:
    raise ValueError("メッセージが長すぎますから短くしてください" * 4)


Refused = Annotated[int, AfterValidator(refuse)]


def test_a_close_reason_is_short_enough_in_any_language() -> None:
    """A server cannot send one of more than 123 bytes, and would close with another code."""
    template = ChannelTemplate("c", Refused)
    broadcaster = Broadcaster("memory://")
    app = FastAPI(lifespan=broadcaster.lifespan)

    @app.websocket("/ws")
    async def ws(
        websocket: WebSocket, target: Annotated[Channel[Refused], Depends(channel(template))]
    ) -> None:
        await websocket.accept()
        await target.publish(1)

    with (
        TestClient(app) as client,
        client.websocket_connect("/ws") as socket,
        pytest.raises(WebSocketDisconnect) as closed,
    ):
        socket.receive_text()
    assert closed.value.code == 1007
    assert 0 < len((closed.value.reason or "").encode()) <= 123


@pytest.mark.parametrize(("declared", "fits"), [(Channel[int], True), (Channel[str], False)])
def test_a_template_of_an_annotated_type_carries_the_bare_type(declared: Any, fits: bool) -> None:
    template = ChannelTemplate("c", Annotated[int, Field(gt=0)])
    app = FastAPI(lifespan=Broadcaster("memory://").lifespan)

    async def say(target: Any) -> None:
        pass

    say.__annotations__["target"] = Annotated[declared, Depends(channel(template))]
    app.post("/c")(say)
    if fits:
        with TestClient(app) as client:
            assert client.post("/c").status_code == 200
    else:
        with pytest.raises(TypeError, match="carries"), TestClient(app):
            pass


@pytest.fixture
def outage(caplog: pytest.LogCaptureFixture) -> Iterator[tuple[TestClient, Redis]]:
    """An app whose broker goes away when the server is killed."""
    caplog.set_level(logging.INFO, "fastapi_broadcaster")
    with Redis.private() as server:
        broadcaster = Broadcaster(server.url, publish_timeout=0.3, subscribe_timeout=3)
        app = FastAPI(lifespan=broadcaster.lifespan)
        app.include_router(channel_router(ChannelTemplate("c", str), "/c"))

        @app.websocket("/publish")
        async def publish(
            websocket: WebSocket, target: Annotated[Channel[str], Depends(channel("c"))]
        ) -> None:
            await target.publish("x")

        with TestClient(app) as client:
            yield client, server


def check(told: str, server: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """Where the broker is stands in the log, and nowhere else."""
    assert told.startswith(("the broker is not reachable", "try again later")), told
    for secret in (str(server.port), "127.0.0.1", "redis"):
        assert secret not in told
    assert f"127.0.0.1:{server.port}" in caplog.text


def test_no_answer_tells_where_the_broker_is(
    outage: tuple[TestClient, Redis], caplog: pytest.LogCaptureFixture
) -> None:
    client, server = outage
    server.kill()
    caplog.clear()
    answer = client.post("/c", json="x")
    assert answer.status_code == 503
    check(answer.json()["detail"], server, caplog)


@pytest.mark.parametrize("path", ["/c/ws", "/publish"])
def test_no_close_reason_tells_where_the_broker_is(
    outage: tuple[TestClient, Redis], caplog: pytest.LogCaptureFixture, path: str
) -> None:
    client, server = outage
    server.kill()
    caplog.clear()
    with (
        client.websocket_connect(path) as socket,
        pytest.raises(WebSocketDisconnect) as closed,
    ):
        socket.receive_text()
    assert closed.value.code == 1013
    check(closed.value.reason or "", server, caplog)


def test_no_frame_tells_where_the_broker_is(
    outage: tuple[TestClient, Redis], caplog: pytest.LogCaptureFixture
) -> None:
    client, server = outage
    with client.websocket_connect("/c/ws") as socket:
        server.kill()
        caplog.clear()
        socket.send_text("x")
        frame = socket.receive_json()
    assert frame["error"] == "BackendUnavailableError"
    check(frame["detail"], server, caplog)


def test_that_a_message_may_have_left_is_told(
    outage: tuple[TestClient, Redis], caplog: pytest.LogCaptureFixture
) -> None:
    client, server = outage
    server.pause()
    begun = time.monotonic()
    answer = client.post("/c", json="x")
    assert time.monotonic() - begun < 15
    server.resume()
    assert answer.status_code == 503
    assert "the message may have been published" in answer.json()["detail"]
    check(answer.json()["detail"], server, caplog)


def test_a_broker_that_refuses_is_told_as_one_that_is_away() -> None:
    """It was a 500 with a traceback; a browser's EventSource would never have come back."""
    with Redis.private() as server:
        broadcaster = Broadcaster(server.url.replace("redis:", "redis-stream:"))
        app = FastAPI(lifespan=broadcaster.lifespan)
        app.include_router(channel_router(ChannelTemplate("c", str), "/c"))
        with TestClient(app) as client, RedisClient(port=server.port) as operator:
            operator.set("c", "no stream")
            answer = client.post("/c", json="x")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["detail"] == "the broker refused it"
            stream = client.get("/c/events")
            assert (stream.status_code, stream.text[:7]) == (200, "retry: ")
            with (
                client.websocket_connect("/c/ws") as socket,
                pytest.raises(WebSocketDisconnect) as closed,
            ):
                socket.receive_text()
            assert closed.value.code == 1013
