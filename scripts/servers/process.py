"""Processes that outlive the one that starts them, and are safe to signal by another."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_children: dict[int, subprocess.Popen[bytes]] = {}


@atexit.register
def _reap_children() -> None:
    """Let those that have ended go in silence: Python warns of the others."""
    for child in _children.values():
        child.poll()


@dataclass(frozen=True, slots=True)
class Process:
    """A pid with its start time (ticks since boot), so that a reused pid is never signalled."""

    pid: int
    started: int

    @classmethod
    def spawn(
        cls, command: Sequence[str], *, directory: Path, environment: Mapping[str, str], log: Path
    ) -> Process:
        """Start `command` in a session of its own, out of reach of the terminal's signals."""
        with open(log, "ab") as output:
            child = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _children[child.pid] = child
        return cls.of(child.pid)

    @classmethod
    def of(cls, pid: int) -> Process:
        return cls(pid, _Stat.read(pid).started)

    @classmethod
    def load(cls, file: Path) -> Process | None:
        """Read what `save` wrote; None without such a file."""
        try:
            pid, started = file.read_text().split()
        except FileNotFoundError:
            return None
        return cls(int(pid), int(started))

    def save(self, file: Path) -> None:
        draft = file.with_suffix(".new")
        draft.write_text(f"{self.pid} {self.started}\n")
        draft.replace(file)

    @property
    def alive(self) -> bool:
        """Whether it runs. A zombie runs while threads of it do: they still hold its sockets."""
        try:
            stat = _Stat.read(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        if stat.state in "ZX" and stat.threads <= 1:
            self._reap()
            return False
        return stat.started == self.started

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            if self.alive:
                os.kill(self.pid, number)

    def freeze(self) -> None:
        """Send SIGSTOP and wait until the last of its threads has stopped."""
        self.signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self.pid}/task")
        with suppress(FileNotFoundError, ProcessLookupError):  # it was about to end
            while self.alive and any(_runs(thread) for thread in threads.iterdir()):
                time.sleep(0.001)

    def _reap(self) -> None:
        """Reap our own child that has ended: until then its pid counts as taken."""
        if child := _children.pop(self.pid, None):
            child.wait()


def _runs(thread: Path) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return _Stat.of(thread / "stat").state not in "tTZX"
    return False


class _Stat(NamedTuple):
    """Fields 3, 20 and 22 of /proc/PID/stat."""

    state: str
    threads: int
    started: int

    @classmethod
    def read(cls, pid: int) -> _Stat:
        return cls.of(Path(f"/proc/{pid}/stat"))

    @classmethod
    def of(cls, file: Path) -> _Stat:
        fields = file.read_text().rpartition(")")[2].split()
        return cls(fields[0], int(fields[17]), int(fields[19]))
