"""Uvicorn processes that serve an app of tests/apps, or any directory, on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from servers import free_port

APPS = Path(__file__).resolve().parents[1] / "apps"


class WebServer:
    """`python -m uvicorn APP` in a session of its own; a context manager that leaves nothing."""

    def __init__(
        self,
        app: str,
        *,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        directory: Path = APPS,
    ) -> None:
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"
        self.ws_url = f"ws://{self.host}"
        self._command = [
            *(sys.executable, "-m", "uvicorn", app, "--app-dir", str(directory)),
            *("--host", "127.0.0.1", "--port", str(self.port), "--ws", "websockets-sansio"),
            *arguments,
        ]
        self._directory = directory
        self._environment = {**os.environ, **(environment or {}), "PYTHONUNBUFFERED": "1"}
        self._log = tempfile.NamedTemporaryFile(prefix="uvicorn-", suffix=".log")  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text(errors="replace")

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._log.close()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None, f"uvicorn ended\n{self.log}"
            assert time.monotonic() < deadline, f"uvicorn does not answer\n{self.log}"
            time.sleep(0.02)

    def _answers(self) -> bool:
        """A supervisor binds the port long before a worker answers on it."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as peer:
                peer.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                return peer.recv(8) == b"HTTP/1.1"
        except OSError:
            return False

    def terminate(self, *, within: float = 30.0) -> float:
        """Send SIGTERM and return after how many seconds the process had gone."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there {within} s after SIGTERM\n{self.log}") from None
        return time.monotonic() - begun

    def kill(self) -> None:
        """Kill the process, and the workers of its session."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
