"""Servers that serve an app of tests/apps, or any directory, on loopback."""

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
COMMANDS = {
    "uvicorn": "uvicorn {app} --host 127.0.0.1 --port {port} --ws websockets-sansio",
    "granian": "granian {app} --interface asgi --host 127.0.0.1 --port {port}",
    "hypercorn": "hypercorn {app} --bind 127.0.0.1:{port}",
}
STARTED = {  # what each worker logs
    "uvicorn": "Application startup complete",
    "granian": "Started worker-",
    "hypercorn": "Running on",
}


class WebServer:
    """A server with an app, in a session of its own; a context manager that leaves nothing."""

    def __init__(
        self,
        app: str,
        *,
        server: str = "uvicorn",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        directory: Path = APPS,
    ) -> None:
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"
        self.ws_url = f"ws://{self.host}"
        command = COMMANDS[server].format(app=app, port=self.port)
        self._command = [sys.executable, "-m", *command.split(), *arguments]
        self._started = STARTED[server]
        self._directory = directory
        self._environment = {**os.environ, **(environment or {}), "PYTHONUNBUFFERED": "1"}
        self._log = tempfile.NamedTemporaryFile(prefix=f"{server}-", suffix=".log")  # noqa: SIM115
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

    def started(self) -> int:
        """How many workers have started so far."""
        return self.log.count(self._started)

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None, f"the server ended\n{self.log}"
            assert time.monotonic() < deadline, f"the server does not answer\n{self.log}"
            time.sleep(0.02)

    def _answers(self) -> bool:
        """A supervisor binds the port long before a worker answers on it."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as peer:
                peer.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                return peer.recv(8) == b"HTTP/1.1"
        except OSError:
            return False

    def terminate(self, *, number: int = signal.SIGTERM, within: float = 30.0) -> float:
        """Send SIGTERM, and return after how many seconds the process had gone."""
        begun = time.monotonic()
        self.process.send_signal(number)
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there {within} s after the signal\n{self.log}") from None
        return time.monotonic() - begun

    def kill(self) -> None:
        """Kill the process, and the workers of its session."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
