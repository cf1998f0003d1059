from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx2
import pytest

from examples import two_broadcasters
from examples.audit_router import audit, audit_broadcaster, orders
from fastapi_broadcaster import Broadcaster, get_broadcaster
from servers import Redis
from tests.examples.conftest import Serve
from tests.web.clients import WAIT, open_events, post


async def test_orders_and_audit_go_through_brokers_of_their_own(
    serve: Serve, redis_server: Redis
) -> None:
    shop = uuid4().hex
    app = serve("two_broadcasters", SHOP_URL=redis_server.url, AUDIT_URL="memory://")
    async with (
        open_events(f"{app.url}/shops/{shop}/orders/events") as ordered,
        open_events(f"{app.url}/audit/events") as audited,
        Broadcaster(redis_server.url) as redis,
    ):
        answer = await post(f"{app.url}/shops/{shop}/orders", {"article": "lamp"})
        assert answer.json()["id"] is None, "Redis pub/sub knows no ids"
        assert (await ordered.event()).json == {"article": "lamp"}
        assert (await audited.event()).json == {"shop": shop, "what": "ordered lamp"}
        await redis.publish(f"shops.{shop}.orders", b'{"article": "from outside"}')
        assert (await ordered.event()).json == {"article": "from outside"}


async def test_both_end_their_streams_on_sigterm(serve: Serve, redis_server: Redis) -> None:
    environment = {"SHOP_URL": redis_server.url, "AUDIT_URL": "memory://", "OWN": "1"}
    app = serve("two_broadcasters", **environment)
    async with (
        open_events(f"{app.url}/shops/x/orders/events") as ordered,
        open_events(f"{app.url}/audit/events") as audited,
    ):
        await ordered.frame()
        await audited.frame()
        gone = asyncio.create_task(asyncio.to_thread(app.terminate))
        for stream in (ordered, audited):
            assert any(frame.retry is not None for frame in await stream.rest())
        await gone


@pytest.fixture
async def spare() -> AsyncIterator[Broadcaster]:
    """Takes the place of the app's broadcaster; the audit's own is on memory anyway."""
    app = two_broadcasters.app
    async with Broadcaster("memory://") as spare, audit_broadcaster:
        app.dependency_overrides[get_broadcaster] = lambda: spare
        try:
            yield spare
        finally:
            app.dependency_overrides.clear()


async def test_an_override_replaces_the_apps_and_leaves_the_named_one(spare: Broadcaster) -> None:
    transport = httpx2.ASGITransport(app=two_broadcasters.app)
    async with (
        spare.subscribe(spare.channel(orders, shop="lisbon")) as ordered,
        audit_broadcaster.subscribe(audit_broadcaster.channel(audit)) as audited,
        httpx2.AsyncClient(transport=transport, base_url="http://test") as client,
        asyncio.timeout(WAIT),
    ):
        answer = await client.post("/shops/lisbon/orders", json={"article": "lamp"})
        assert answer.status_code == 202
        assert (await ordered.get()).message.article == "lamp"
        assert (await audited.get()).message.what == "ordered lamp"
