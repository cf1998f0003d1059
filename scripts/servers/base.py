"""What all servers share: a folder, and start, stop and kill."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Container, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from servers import debian
from servers.process import Process

HOST = "127.0.0.1"
SCRATCH = Path(__file__).resolve().parents[2] / ".services"
_given: deque[int] = deque(maxlen=1_000)


class ServerError(Exception):
    """A server did not start; the message ends with the end of its log."""


class Server(ABC):
    """One server process on a loopback port, with its data, log and pid in `directory`.

    Calls block; an async test makes them in a thread. As a context manager it starts the server,
    and at the end kills it and removes its folder.
    """

    package: ClassVar[str]
    program: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, name: str, port: int, directory: Path | None = None) -> None:
        self.name = name
        self.port = port
        self.directory = (directory or SCRATCH / name).absolute()
        self.data = self.directory / "data"
        self.log = self.directory / "log"
        self._pid_file = self.directory / "pid"

    @classmethod
    def private(cls) -> Self:
        """Make a server on a free port, for a test that breaks it."""
        port = free_port()
        return cls(f"{cls.__name__.lower()}-{port}", port)

    @property
    @abstractmethod
    def url(self) -> str:
        """What a broadcaster connects to."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The arguments of a process that stays in the foreground, as the pid that is kept."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server answers in its own protocol; an open port is not enough."""

    def environment(self) -> Mapping[str, str]:
        return os.environ

    def prepare(self) -> None:  # noqa: B027 - most servers want nothing
        """Make what the server wants before it starts; called before every start."""

    @property
    def installed(self) -> bool:
        return shutil.which(self.program) is not None

    @property
    def process(self) -> Process | None:
        """The process that was started last, if it still runs, whoever started it."""
        process = Process.load(self._pid_file)
        return process if process and process.alive else None

    @property
    def running(self) -> bool:
        return self.process is not None

    def start(self, *, timeout: float = 120.0) -> None:
        """Start on the port and data of before, and return once the server answers.

        Installs a missing package. Does not start a second process if one runs. Raises ServerError
        if the server ends or does not answer within `timeout` seconds.
        """
        if not self.installed:
            install([self])
        with self._locked():
            process = self.process or self._spawn()
        deadline = time.monotonic() + timeout
        while not self.answers():
            if not process.alive:
                raise ServerError(f"{self.name} ended\n{self._end_of_log()}")
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} does not answer\n{self._end_of_log()}")
            time.sleep(0.02)

    def stop(self, *, timeout: float = 30.0) -> None:
        """Stop gracefully and keep the data; kill what still runs after `timeout` seconds."""
        self.resume()
        if not self._end(self.stop_signal, timeout):
            self.kill()

    def kill(self) -> None:
        """Kill with SIGKILL and keep the data; return once the process is gone."""
        if not self._end(signal.SIGKILL, 30.0):
            raise ServerError(f"{self.name} survived SIGKILL")

    def pause(self) -> None:
        """Freeze the process: connections stay open and nothing answers."""
        if process := self.process:
            process.freeze()

    def resume(self) -> None:
        """Undo `pause`."""
        if process := self.process:
            process.signal(signal.SIGCONT)

    def forget(self) -> None:
        """Remove the folder of a stopped server."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self.forget()

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Let one process at a time decide whether to start the server."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with open(self.directory / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _spawn(self) -> Process:
        if not _is_free(self.port):
            raise ServerError(f"port {self.port} of {self.name} is taken by something else")
        self.data.mkdir(exist_ok=True)
        self.prepare()
        process = Process.spawn(
            self.command(), directory=self.directory, environment=self.environment(), log=self.log
        )
        process.save(self._pid_file)
        return process

    def _end(self, number: signal.Signals, timeout: float) -> bool:
        """Send a signal and wait until the process is gone; whether it is, after `timeout`."""
        process = self.process
        if process is None:
            return True
        deadline = time.monotonic() + timeout
        process.signal(number)
        while process.alive and time.monotonic() < deadline:
            time.sleep(0.01)
        return not process.alive

    def _end_of_log(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


def install(servers: Sequence[Server]) -> None:
    """Install the packages of those servers whose program is missing."""
    if packages := {server.package for server in servers if not server.installed}:
        debian.install(packages)


def kill_strays(names: Container[str]) -> None:
    """Kill and remove all under .services/ but `names`: private servers of aborted tests."""
    for lock in SCRATCH.glob("*/lock"):
        folder = lock.parent
        if folder.name not in names:
            for pid_file in (folder / "pid", *folder.glob("*.pid")):
                if process := Process.load(pid_file):
                    process.signal(signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)


def free_port(*, behind: int = 0) -> int:
    """Find a free port, away from the fixed ones and from those of outgoing connections.

    So many `behind` it are free too. Not one of the last thousand, whose servers may be down just
    now, and none that another worker of pytest-xdist could find.
    """
    share = 9_000 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    begin = 23_000 + share * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        first = random.randrange(begin, begin + share - 10)
        ports = range(first, first + behind + 1)
        if all(port not in _given and _is_free(port) for port in ports):
            _given.extend(ports)
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
