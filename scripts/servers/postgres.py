from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGCONT, SIGINT
from typing import ClassVar

from servers.base import HOST, SCRATCH, Server, ServerError
from servers.process import Process

_DEBIAN = Path("/usr/lib/postgresql")


class Postgres(Server):
    """PostgreSQL that trusts everybody on loopback; without fsync, which a kill does not need.

    A subclass with a `password` asks for it (SCRAM-SHA-256), one with a `certificate` and `key`
    speaks TLS too. `settings` are lines of postgresql.conf.
    """

    package = "postgresql"
    program = "postgres"
    stop_signal = SIGINT  # "fast": SIGTERM waits until every client has left
    password: ClassVar[str] = ""
    certificate: ClassVar[Path | None] = None
    key: ClassVar[Path | None] = None
    settings: ClassVar[Sequence[str]] = ()

    def __init__(self, name: str, port: int, directory: Path | None = None) -> None:
        super().__init__(name, port, directory)
        if os.geteuid() == 0 and not _open_to_all(self.directory):
            place = hashlib.sha256(bytes(self.directory)).hexdigest()[:12]
            self.data = Path("/var/tmp") / f"fastapi-broadcaster-{place}"

    @property
    def url(self) -> str:
        secret = f":{self.password}" if self.password else ""
        return f"postgres://postgres{secret}@{HOST}:{self.port}/postgres"

    @property
    def installed(self) -> bool:
        return _tool("initdb") is not None

    def command(self) -> Sequence[str]:
        options = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": "300",
            "shared_buffers": "64MB",
            **dict(line.split("=", 1) for line in self.settings),
        }
        if self.certificate is not None:
            files = {"ssl_cert_file": "server.crt", "ssl_key_file": "server.key"}
            options |= {"ssl": "on", **files}
        words = [word for name in options for word in ("-c", f"{name}={options[name]}")]
        return self._as_owner("postgres", "-D", str(self.data), *words)

    def prepare(self) -> None:
        """Make the cluster: a copy of one made before, because initdb takes ten times as long."""
        if (self.data / "PG_VERSION").exists():
            return
        self.data.rmdir()
        template = SCRATCH / f"postgres-template-{Path(_tool('initdb') or '').parts[-3]}"
        if not self.password and template.exists():
            self._run("cp", "-a", str(template), str(self.data), owner=False)
        else:
            self._initialise()
            if not self.password:
                draft = template.with_name(f"{template.name}.{self.port}")
                self._run("cp", "-a", str(self.data), str(draft), owner=False)
                with suppress(OSError):
                    draft.rename(template)
                shutil.rmtree(draft, ignore_errors=True)
        for source, name in ((self.certificate, "server.crt"), (self.key, "server.key")):
            if source is not None:
                target = Path(shutil.copy(source, self.data / name))
                if os.geteuid() == 0:
                    shutil.chown(target, "postgres", "postgres")
                target.chmod(0o600)

    def _initialise(self) -> None:
        """As a user other than root: the server refuses to run as root."""
        self.data.mkdir()
        if os.geteuid() == 0:
            shutil.chown(self.data, "postgres", "postgres")
        self.data.chmod(0o700)
        words = ["-D", str(self.data), "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]
        secret = self.directory / "password"
        if self.password:
            secret.write_text(self.password)
            secret.chmod(0o644)
            words += ["-A", "scram-sha-256", "--pwfile", str(secret)]
        else:
            words += ["-A", "trust"]
        self._run("initdb", *words)
        secret.unlink(missing_ok=True)

    def kill(self) -> None:
        """As always, and wait for the backends: they hold the shared memory until they end."""
        super().kill()
        deadline = time.monotonic() + 30
        while (backends := self._processes()) and time.monotonic() < deadline:
            for backend in backends:
                backend.signal(SIGCONT)
            time.sleep(0.01)

    def pause(self) -> None:
        super().pause()  # first, so that no process for a new connection comes meanwhile
        for process in self._processes():
            process.freeze()

    def resume(self) -> None:
        for process in self._processes():
            process.signal(SIGCONT)

    def _processes(self) -> list[Process]:
        """The server, and its process for each connection: all work in the data directory."""
        found: list[Process] = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.readlink(folder / "cwd") == str(self.data):
                    found.append(Process.of(int(folder.name)))
        return found

    def forget(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        super().forget()

    def answers(self) -> bool:
        words = b"\x00\x03\x00\x00user\x00postgres\x00database\x00postgres\x00\x00"
        with suppress(OSError), socket.create_connection((HOST, self.port), timeout=1.0) as peer:
            peer.sendall((len(words) + 4).to_bytes(4, "big") + words)
            return peer.recv(1) == b"R"  # it asks for a password, or wants none
        return False

    def single_user(self, sql: str) -> None:
        """Run a statement while the server is stopped."""
        self._run("postgres", "--single", "-j", "-D", str(self.data), "postgres", text=sql)

    def _run(self, program: str, *words: str, text: str = "", owner: bool = True) -> None:
        done = subprocess.run(
            self._as_owner(program, *words) if owner else [program, *words],
            cwd=self.data if self.data.exists() else self.directory,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0 or "ERROR:" in done.stdout:
            raise ServerError(f"{self.name}: {program} failed\n{done.stdout}")

    def _as_owner(self, program: str, *words: str) -> list[str]:
        """A command line that ends up as that very process, owned by the user postgres."""
        user: list[str] = []
        if os.geteuid() == 0:
            user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
        return [*user, _tool(program) or program, *words]


def _tool(name: str) -> str | None:
    """A program of the newest PostgreSQL: Debian keeps them out of the path."""
    found = sorted(_DEBIAN.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    return str(found[-1]) if found else shutil.which(name)


def _open_to_all(directory: Path) -> bool:
    """Whether another user reaches what lies in the directory."""
    return all(parent.stat().st_mode & 0o1 for parent in directory.parents if parent.exists())
