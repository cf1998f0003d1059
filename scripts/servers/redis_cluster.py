"""A Redis Cluster of several processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from servers.base import HOST, free_port
from servers.certificates import Certificates
from servers.redis import Redis

SLOTS = 16_384


class RedisNode(Redis):
    """One node. It knows all the others from its first start on, so that nobody has to meet."""

    def __init__(self, port: int, bus: int, tls: int) -> None:
        super().__init__(f"redisnode-{port}", port)
        self.id = f"{port:040x}"
        self.nodes: Sequence[RedisNode] = ()
        self.master: RedisNode | None = None
        self.slots: tuple[int, int] | None = None  # the first and the last, when it is made
        self.options: Mapping[str, str] = {}
        self._bus, self._tls = bus, tls

    @property
    def address(self) -> tuple[str, int]:
        """Where the nodes say that this one is."""
        return HOST, self._tls if "tls-cluster" in self.options else self.port

    def prepare(self) -> None:
        config = self.data / "nodes.conf"
        if not config.exists():
            lines = [node.line(myself=node is self) for node in self.nodes]
            lines.append(f"vars currentEpoch {len(self.nodes)} lastVoteEpoch 0\n")
            config.write_text("\n".join(lines))

    def line(self, *, myself: bool) -> str:
        """What nodes.conf holds of a node."""
        master = self.master or self
        role = "master -" if master is self else f"slave {master.id}"
        flags = f"myself,{role}" if myself else role
        where = f"{HOST}:{self.address[1]}@{self._bus}"
        line = f"{self.id} {where} {flags} 0 0 {self.nodes.index(master) + 1} connected"
        return f"{line} {self.slots[0]}-{self.slots[1]}" if self.slots else line

    def command(self) -> Sequence[str]:
        options = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-port": str(self._bus),
            **self.options,
        }
        if "tls-cluster" in options:
            options["tls-port"] = str(self._tls)
        words = (word for key in options for word in (f"--{key}", options[key]))
        return [*super().command(), *words]


class RedisCluster:
    """Three masters that share the slots, and perhaps a replica of each.

    As a context manager it starts them all, and at the end kills them and removes their folders.
    `options` are those of redis-server. With `certificates`, TLS is spoken on ports beside.
    """

    def __init__(
        self,
        *,
        replicas: bool = False,
        options: Mapping[str, str] | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        count = 6 if replicas else 3
        ports: set[int] = set()
        while len(ports) < 3 * count:
            ports.add(free_port())
        self.nodes = [RedisNode(ports.pop(), ports.pop(), ports.pop()) for _ in range(count)]
        self.masters, self.replicas = self.nodes[:3], self.nodes[3:]
        for number, master in enumerate(self.masters):
            first, following = (SLOTS * at // 3 for at in (number, number + 1))
            master.slots = (first, following - 1)
        for master, replica in zip(self.masters, self.replicas, strict=False):
            replica.master = master
        for node in self.nodes:
            node.nodes = self.nodes
            node.options = {**(options or {}), **(_tls(certificates) if certificates else {})}
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """What a broadcaster connects to: one of the nodes tells of the others."""
        host, port = self.masters[0].address
        scheme = "rediss" if "tls-cluster" in self.masters[0].options else "redis"
        return f"{scheme}://{host}:{port}?cluster=true"

    def master_of(self, slot: int) -> RedisNode:
        """Which master has a slot at the beginning."""
        return self.masters[(slot * 3 + 2) // SLOTS]

    def start(self) -> None:
        for node in self.nodes:
            node.start()

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def pause(self) -> None:
        for node in self.nodes:
            node.pause()

    def resume(self) -> None:
        for node in self.nodes:
            node.resume()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for node in self.nodes:
                stack.enter_context(node)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()


def _tls(certificates: Certificates) -> dict[str, str]:
    certificate, key = certificates.server
    return {
        "tls-cluster": "yes",
        "tls-auth-clients": "no",
        "tls-cert-file": str(certificate),
        "tls-key-file": str(key),
        "tls-ca-cert-file": str(certificates.ca),
    }
