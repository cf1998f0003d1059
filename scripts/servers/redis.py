from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress

from servers.base import HOST, Server


class Redis(Server):
    """Redis whose writes are on disk before they are confirmed."""

    package = "redis-server"
    program = "redis-server"

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    def command(self) -> Sequence[str]:
        options = {
            "bind": HOST,
            "port": str(self.port),
            "dir": str(self.data),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
        }
        return [self.program, *(word for key in options for word in (f"--{key}", options[key]))]

    def answers(self) -> bool:
        with suppress(OSError), socket.create_connection((HOST, self.port), timeout=1.0) as peer:
            peer.sendall(b"PING\r\n")
            return peer.recv(64).startswith(b"+PONG")
        return False
