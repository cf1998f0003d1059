"""The uvicorn processes that serve the app."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from benchmarks._delivery.http import HOST
from servers import free_port

ROOT = Path(__file__).resolve().parents[2]
_START = 60.0  # seconds


class Worker:
    """A process at a port of its own; `kill` and `start` any number of times."""

    def __init__(self, url: str, log: IO[bytes]) -> None:
        self.port = free_port()
        self._url = url
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self) -> None:
        command = [sys.executable, "-m", "uvicorn", "benchmarks._delivery.app:app"]
        command += ["--host", HOST, "--port", str(self.port), "--log-level", "warning"]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "BROADCASTER_URL": self._url},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    async def answer(self) -> None:
        """Wait until it takes requests."""
        deadline = time.monotonic() + _START
        while True:
            try:
                _, writer = await asyncio.open_connection(HOST, self.port)
                return writer.transport.abort()
            except OSError:
                ended = self._process is None or self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise RuntimeError(f"no worker answers; see {self._log.name}") from None
            await asyncio.sleep(0.02)

    def kill(self) -> None:
        """With SIGKILL; the port is free when it returns."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@asynccontextmanager
async def workers(url: str, count: int, log: Path) -> AsyncIterator[list[Worker]]:
    """So many processes that serve the app and write to this log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as output:  # noqa: ASYNC230  # before anything runs
        started = [Worker(url, output) for _ in range(count)]
        try:
            for worker in started:
                worker.spawn()
            for worker in started:
                await worker.answer()
            yield started
        finally:
            for worker in started:
                worker.kill()
