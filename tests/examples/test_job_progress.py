from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from servers import Redis
from tests.examples.conftest import Serve
from tests.web.clients import WAIT, open_events
from tests.web.processes import WebServer


@pytest.fixture
def app(serve: Serve, redis_server: Redis) -> WebServer:
    return serve("job_progress", BROADCASTER_URL=redis_server.url)


async def work(source: Path, redis: Redis, job: str) -> None:
    """Run the worker as a cron job would; it must end by itself, and say nothing."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "examples.job_worker", job),
        cwd=source,
        env={**os.environ, "BROADCASTER_URL": redis.url},
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(3 * WAIT):
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")


async def test_a_worker_without_an_app_reports(
    app: WebServer, source: Path, redis_server: Redis
) -> None:
    job, other = str(uuid4()), str(uuid4())
    async with open_events(f"{app.url}/jobs/{job}/progress") as stream:
        await work(source, redis_server, other)
        await work(source, redis_server, job)
        frames = [frame for frame in await stream.rest() if frame.data is not None]
    assert [frame.json["percent"] for frame in frames[:-1]] == [0, 25, 50, 75, 100]
    assert frames[-2].json["step"] == "done"
    assert frames[-1].event == "end"


async def test_a_job_is_named_by_a_uuid(app: WebServer) -> None:
    async with open_events(f"{app.url}/jobs/7/progress") as stream:
        assert stream.status == 422
