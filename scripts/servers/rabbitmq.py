from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL, Signals
from typing import ClassVar, Self

from servers.base import HOST, Server, ServerError, free_port
from servers.process import Process

_BIN = Path("/usr/lib/rabbitmq/bin")  # those in the path change the user and the folders


class RabbitMQ(Server):
    """RabbitMQ without plugins, and the Erlang port mapper that it cannot start without.

    User and password are guest. A subclass with an `authority`, a `certificate` and a `key` speaks
    TLS too, on `tls_port`. `settings` are lines of rabbitmq.conf.
    """

    package = "rabbitmq-server"
    program = str(_BIN / "rabbitmq-server")
    authority: ClassVar[Path | None] = None
    certificate: ClassVar[Path | None] = None
    key: ClassVar[Path | None] = None
    settings: ClassVar[Sequence[str]] = ()

    def __init__(self, name: str, port: int, directory: Path | None = None) -> None:
        super().__init__(name, port, directory)
        self.tls_port, self.epmd_port, self.dist_port = port + 1, port + 2, port + 3
        self.node = f"{name}@localhost"
        self._is_private = False
        self._mapper_file = self.directory / "epmd.pid"

    @classmethod
    def private(cls) -> Self:
        server = super().private()
        server.tls_port, server._is_private = free_port(), True
        return server

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{HOST}:{self.port}/"

    def command(self) -> Sequence[str]:
        return [self.program]

    def environment(self) -> Mapping[str, str]:
        loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
        return os.environ | {
            "HOME": str(self.directory),  # where the cookie is
            "ERL_FLAGS": "-start_epmd false",  # neither the server nor its tools start another
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self.epmd_port),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(self.directory),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_MNESIA_BASE": str(self.data),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": loopback,
            "RUNNING_UNDER_SYSTEMD": "true",  # so that the pid is the server's own
        }

    def prepare(self) -> None:
        if self._is_private:  # nobody but this object knows these two
            self.epmd_port, self.dist_port = free_port(), free_port()
        lines = [f"listeners.tcp.1 = {HOST}:{self.port}", *self.settings]
        if self.authority is not None:
            lines += [
                f"listeners.ssl.1 = {HOST}:{self.tls_port}",
                f"ssl_options.cacertfile = {self.authority}",
                f"ssl_options.certfile = {self.certificate}",
                f"ssl_options.keyfile = {self.key}",
            ]
        (self.directory / "rabbitmq.conf").write_text("".join(f"{line}\n" for line in lines))
        (self.directory / "enabled_plugins").write_text("[].\n")
        if self._mapper is None:
            self._start_mapper()

    @property
    def _mapper(self) -> Process | None:
        mapper = Process.load(self._mapper_file)
        return mapper if mapper and mapper.alive else None

    def _start_mapper(self) -> None:
        """In the foreground: the server would start one that outlives it, on a common port."""
        mapper = Process.spawn(
            ["epmd", "-address", HOST, "-port", str(self.epmd_port)],
            directory=self.directory,
            environment=os.environ,
            log=self.directory / "epmd.log",
        )
        mapper.save(self._mapper_file)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection((HOST, self.epmd_port), timeout=1.0):
                return
            time.sleep(0.01)
        raise ServerError(f"the port mapper of {self.name} does not answer")

    def answers(self) -> bool:
        with suppress(OSError), socket.create_connection((HOST, self.port), timeout=1.0) as peer:
            peer.sendall(b"AMQP\x00\x00\x09\x01")
            if peer.recv(1) == b"\x01":  # Connection.Start
                return self.authority is None or self._listens_for_tls()
        return False

    def _listens_for_tls(self) -> bool:
        """It does so a moment after the other port is open."""
        with suppress(OSError), socket.create_connection((HOST, self.tls_port), timeout=1.0):
            return True
        return False

    def _end(self, number: Signals, timeout: float) -> bool:
        ended = super()._end(number, timeout)
        if ended and (mapper := self._mapper):
            mapper.signal(SIGKILL)
            while mapper.alive:  # the next start would count on it
                time.sleep(0.001)
        return ended

    def control(self, *words: str) -> str:
        """Run rabbitmqctl and return what it prints."""
        return self._run([str(_BIN / "rabbitmqctl"), "--quiet", *words])

    def evaluate(self, expression: str) -> str:
        """Evaluate Erlang in the server: what rabbitmqctl does, without its second to start."""
        cookie = (self.directory / ".erlang.cookie").read_text()
        words = ["erl_call", "-c", cookie, "-sname", self.node, "-e"]
        return self._run(words, text=f"{expression}\n")

    def _run(self, words: Sequence[str], *, text: str = "") -> str:
        done = subprocess.run(
            words,
            env=self.environment(),
            cwd=self.directory,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            raise ServerError(f"{self.name}: {words[0]} failed\n{done.stdout}")
        return done.stdout
