"""Health, and the route that tells of it."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from threading import Event

import pytest
from fastapi import Response
from fastapi.testclient import TestClient
from redis.asyncio import Redis as RedisClient

from docs_src.deployment import health as snippet
from fastapi_broadcaster import Backend, Backoff, Broadcaster, readiness
from servers import Redis
from tests.brokers import MemoryBroker
from tests.conformance.tools import publish_all, take
from tests.faults.probe import probing

SECRET = "correct-horse"


def test_the_route_and_its_documentation() -> None:
    """As the page about deployment has it."""
    with TestClient(snippet.app) as client:
        answer = client.get("/ready")
        documented = client.get("/openapi.json").json()
    assert answer.status_code == 200
    assert (
        answer.json().items()
        >= {"state": "connected", "backend": "memory", "last_error": None, "lag": 0}.items()
    )
    answers = documented["paths"]["/ready"]["get"]["responses"]
    models = [answers[status]["content"]["application/json"]["schema"] for status in ("200", "503")]
    assert models == [{"$ref": "#/components/schemas/Health"}] * 2
    assert {*documented["components"]["schemas"]["Health"]["properties"]} == set(answer.json())


async def test_the_hooks_of_the_page(caplog: pytest.LogCaptureFixture) -> None:
    health = snippet.broadcaster.health()
    snippet.broker_is_lost(health)
    await snippet.broker_is_back(health)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


async def test_draining_is_not_ready() -> None:
    """So that a load balancer sends the clients, who come back, to another instance."""
    broadcaster = Broadcaster("memory://")
    async with probing(broadcaster) as probe:
        await broadcaster.drain()
        await probe.turns(503, within=20)
        assert probe.body["state"] == "draining"


async def test_a_second_broadcaster_has_a_route_of_its_own() -> None:
    second = Broadcaster("memory://")
    response = Response()
    assert (await readiness(second, response)).state == "disconnected"
    assert response.status_code == 503


async def test_outsiders_learn_nothing_of_the_broker(caplog: pytest.LogCaptureFixture) -> None:
    """Neither where it is, nor its errors; operators find both in the health, but no password."""
    with Redis.private() as redis:
        url = redis.url.replace("//", f"//default:{SECRET}@")
        async with RedisClient.from_url(redis.url) as client:
            await client.execute_command("CONFIG", "SET", "requirepass", SECRET)
        broadcaster = Broadcaster(url, backoff=Backoff(cap=0.2))
        async with probing(broadcaster) as probe:
            redis.kill()
            await probe.turns(503, within=20)
            health = broadcaster.health()
            told = json.dumps(probe.body)
    assert str(redis.port) in health.backend
    assert str(redis.port) in (health.last_error or "")
    assert str(redis.port) not in told
    assert probe.body["backend"] == "redis"
    assert probe.body["last_error"] == "the connection was lost"
    assert SECRET not in str(health) + told + caplog.text


def test_a_backend_without_a_name_of_its_own_is_told_by_its_class() -> None:
    methods = dict.fromkeys(Backend.__abstractmethods__)
    nameless = type("Nameless", (Backend,), methods)()
    assert Broadcaster(backend=nameless).health().outward().backend == "Nameless"


async def test_since_is_when_the_state_began() -> None:
    broadcaster = Broadcaster("memory://")
    told = [broadcaster.health(), broadcaster.health()]
    async with broadcaster:
        told += [broadcaster.health(), broadcaster.health()]
        await broadcaster.drain()
        told += [broadcaster.health()]
        await broadcaster.drain()
        told += [broadcaster.health()]
    told += [broadcaster.health(), broadcaster.health()]
    states = [health.state for health in told]
    assert states[::2] == states[1::2] == ["disconnected", "connected", "draining", "disconnected"]
    moments = [health.since for health in told]
    assert moments[::2] == moments[1::2] == sorted(set(moments))


async def test_health_may_be_asked_in_any_thread() -> None:
    """As `def` routes do, while subscribers come and go."""
    done, interval = Event(), sys.getswitchinterval()

    def ask(broadcaster: Broadcaster) -> None:
        while not done.is_set():
            broadcaster.health()

    async with MemoryBroker().broadcaster() as broadcaster, AsyncExitStack() as stack:
        for _ in range(200):
            await stack.enter_async_context(broadcaster.subscribe("room"))
        asking = asyncio.create_task(asyncio.to_thread(ask, broadcaster))
        sys.setswitchinterval(1e-6)
        try:
            for _ in range(500):
                async with broadcaster.subscribe("room"):
                    await asyncio.sleep(0)
        finally:
            sys.setswitchinterval(interval)
            done.set()
            await asking


async def test_lag_is_what_waits_for_the_slowest_reader() -> None:
    async with MemoryBroker().broadcaster() as broadcaster:
        messages = [str(number) for number in range(42)]
        async with (
            broadcaster.subscribe("room") as slow,
            broadcaster.subscribe("room") as quick,
            broadcaster.subscribe("room", buffer_size=8) as behind,
        ):
            assert broadcaster.health().lag == 0
            await publish_all(broadcaster, "room", messages)
            await take(quick, 42)
            assert broadcaster.health().lag == 42
            await take(slow, 40)
            assert broadcaster.health().lag == 8  # the other one reads the log, from its beginning
            assert await take(behind, 42) == messages
            assert broadcaster.health().lag == 2
        assert broadcaster.health().lag == 0
        assert broadcaster.health().subscribers == 0
