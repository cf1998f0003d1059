"""How each server ends: its own way to handle signals, with workers and without."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from .clients import until
from .processes import APPS, WebServer
from .test_shutdown import check_lines, close_code, open_many

SOON = 9.0  # seconds; half of one on a quiet machine, and the servers' own limits are ten
MANY = 10
SERVERS = [
    ("uvicorn", "", 1),
    ("uvicorn", "--workers 2 --timeout-graceful-shutdown 10", 2),
    ("uvicorn", f"--reload --reload-dir {APPS}", 1),
    ("granian", "", 1),
    ("granian", "--workers 2 --workers-kill-timeout 10", 2),
    ("hypercorn", "--workers 0", 1),
    ("hypercorn", "", 1),
    ("hypercorn", "--workers 2 --graceful-timeout 10", 2),
]
PAGE = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()
CUT_OFF = {"granian"}  # it closes WebSockets by itself, and now and then is first


def test_the_commands_of_the_docs_are_those_that_are_tested() -> None:
    commands = re.findall(r"^\| \w+ \| `(\w+) main:app (?:--interface asgi )?(.*)` \|$", PAGE, re.M)
    assert len(commands) == 3
    assert {*commands} <= {(program, arguments) for program, arguments, _ in SERVERS}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("program", "arguments", "workers"), SERVERS)
async def test_streams_end_and_the_process_goes(
    program: str, arguments: str, workers: int, number: signal.Signals, tmp_path: Path
) -> None:
    lines = tmp_path / "lines"
    with WebServer(
        "drained:app",
        server=program,
        arguments=arguments.split(),
        environment={"LINES": str(lines)},
    ) as server:

        async def all_have_started() -> bool:
            return server.started() >= workers

        await until(all_have_started, f"{workers} workers")
        async with AsyncExitStack() as stack:
            streams, generated, sockets = await open_many(stack, server, MANY)
            begun = time.monotonic()
            leaving = asyncio.create_task(asyncio.to_thread(server.terminate, number=number))
            ends = await asyncio.gather(*(stream.rest() for stream in streams + generated))
            codes = Counter(await asyncio.gather(*map(close_code, sockets)))
            ended = time.monotonic() - begun
            left = await leaving
        assert ended < SOON
        assert left < ended + SOON
        retries = [frames[-1].retry for frames in ends[:MANY]]
        assert all(retry is not None and 1_000 <= retry <= 5_000 for retry in retries)
        assert len(set(retries)) > MANY // 2, "not jittered: all would come back at once"
        assert codes[1012] >= (MANY // 2 if program in CUT_OFF else MANY), codes
        check_lines(lines, MANY)
        assert "Traceback" not in server.log
        assert "ERROR" not in server.log
