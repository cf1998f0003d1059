from __future__ import annotations

from uuid import uuid4

import httpx2
import pytest

from tests.examples.conftest import Serve
from tests.web.clients import WAIT, open_events, post
from tests.web.processes import WebServer


@pytest.fixture
def app(serve: Serve) -> WebServer:
    return serve("dashboard")


@pytest.fixture
def shop(app: WebServer) -> str:
    return f"{app.url}/shops/{uuid4().hex}"


async def publish(shop: str, path: str, **message: object) -> None:
    assert (await post(f"{shop}/{path}", message)).status_code == 202


async def test_one_stream_has_all_channels_in_order(shop: str) -> None:
    async with open_events(f"{shop}/events") as stream:
        await publish(shop, "visitors", online=12)
        await publish(shop, "orders", article="lamp", euros=39.5)
        await publish(shop, "alerts", text="printer on fire")
        await publish(shop, "visitors", online=11)
        seen = [(await stream.event()).json for _ in range(4)]
    assert seen == [
        {"kind": "visitors", "online": 12},
        {"kind": "order", "article": "lamp", "euros": 39.5},
        {"kind": "alert", "text": "printer on fire"},
        {"kind": "visitors", "online": 11},
    ]


async def test_who_opens_it_sees_the_last_value_of_each(shop: str) -> None:
    for online in range(5):
        await publish(shop, "visitors", online=online)
    await publish(shop, "orders", article="lamp", euros=39.5)
    async with open_events(f"{shop}/events") as stream:
        last = [(await stream.event()).json for _ in range(2)]
        await publish(shop, "alerts", text="live")
        assert (await stream.event()).json["text"] == "live"
    assert last == [
        {"kind": "visitors", "online": 4},
        {"kind": "order", "article": "lamp", "euros": 39.5},
    ]


async def test_it_resumes_on_all_channels_at_once(shop: str) -> None:
    async with open_events(f"{shop}/events") as stream:
        await publish(shop, "visitors", online=1)
        await publish(shop, "orders", article="lamp", euros=1)
        first = await stream.event()
    assert first.id is not None
    await publish(shop, "alerts", text="while you were away")
    async with open_events(f"{shop}/events", headers={"Last-Event-ID": first.id}) as stream:
        seen = [(await stream.event()).json["kind"] for _ in range(2)]
    assert seen == ["order", "alert"]


async def test_the_page_is_there(shop: str) -> None:
    async with httpx2.AsyncClient(timeout=WAIT) as client:
        assert "EventSource" in (await client.get(shop)).text
