"""The last page of the tutorial, and what else speaks of Redis, on a real one."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator

import httpx2
import pytest
from redis.asyncio import Redis as RedisClient

from docs_src.backends.redis_client import make_broadcaster
from servers import Redis
from tests.backends import BackendCase, rows
from tests.brokers import Broker
from tests.docs.pages import ROOT
from tests.web.clients import WAIT, open_events
from tests.web.processes import WebServer

PACKAGE = "docs_src.tutorial.several_workers"
HELLO = {"user": "ada", "text": "Hello"}


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with Redis.private() as server:
        yield server


@pytest.fixture(scope="module")
def environment(redis: Redis) -> dict[str, str]:
    return {"BROADCASTER_URL": redis.url, "PYTHONPATH": str(ROOT)}


def serve(environment: dict[str, str]) -> WebServer:
    return WebServer(f"{PACKAGE}.app:app", directory=ROOT, environment=environment)


async def run(module: str, environment: dict[str, str]) -> Process:
    """Start a module of the package as a program of its own."""
    arguments = ("-W", "error", "-m", f"{PACKAGE}.{module}")
    return await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env={**os.environ, **environment}, stdout=PIPE
    )


async def test_two_processes_hear_each_other_and_the_worker(environment: dict[str, str]) -> None:
    with serve(environment) as one, serve(environment) as two:
        async with (
            open_events(f"{one.url}/rooms/lobby/events") as here,
            open_events(f"{two.url}/rooms/lobby/events") as there,
        ):
            await here.frame()
            await there.frame()
            async with httpx2.AsyncClient(timeout=WAIT) as client:
                receipt = await client.post(f"{one.url}/rooms/lobby", json=HELLO)
            assert receipt.json() == {"channel": "rooms.lobby", "id": None}
            assert (await here.event()).json == (await there.event()).json == HELLO

            worker = await run("worker", environment)
            assert await worker.wait() == 0
            said = {"user": "robot", "text": "The report is ready."}
            assert (await here.event()).json == (await there.event()).json == said


@rows(lambda case: case.processes)
async def test_the_app_and_the_worker_run_on_every_broker(
    case: BackendCase, broker: Broker
) -> None:
    environment = {"BROADCASTER_URL": broker.url, "PYTHONPATH": str(ROOT)}
    with serve(environment) as app, serve(environment) as other:
        async with (
            open_events(f"{app.url}/rooms/lobby/events") as here,
            open_events(f"{other.url}/rooms/lobby/events") as there,
            httpx2.AsyncClient(timeout=WAIT) as client,
        ):
            await here.frame()
            await there.frame()
            receipt = await client.post(f"{app.url}/rooms/lobby", json=HELLO)
            assert receipt.status_code == 202
            assert (receipt.json()["id"] is not None) == (case.log and case.receipts)
            event = await there.event()
            assert (await here.event()).json == event.json == HELLO
            worker = await run("worker", environment)
            assert await worker.wait() == 0
            said = {"user": "robot", "text": "The report is ready."}
            assert (await here.event()).json == (await there.event()).json == said
        resumed = {"Last-Event-ID": event.id or ""}
        if case.log:
            async with open_events(f"{app.url}/rooms/lobby/events", headers=resumed) as late:
                assert (await late.event()).json == said


async def test_the_follower_hears_all_rooms(redis: Redis, environment: dict[str, str]) -> None:
    follower = await run("follower", environment)
    try:
        assert follower.stdout is not None
        line = asyncio.create_task(follower.stdout.readline())
        async with RedisClient.from_url(redis.url) as client, asyncio.timeout(60):
            while not line.done():  # it hears what is said from when it is live
                await client.publish("rooms.cellar", '{"user": "ops", "text": "by hand"}')
                await asyncio.wait([line], timeout=0.1)
        assert await line == b"cellar ops by hand\n"
    finally:
        follower.kill()
        await follower.communicate()


async def test_a_client_of_ones_own(redis: Redis) -> None:
    async with RedisClient.from_url(redis.url) as client:
        broadcaster = make_broadcaster(client)
        async with broadcaster, broadcaster.subscribe("news") as events:
            await broadcaster.publish("news", "hello")
            assert (await events.get()).message == "hello"
