from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Self

from servers.base import HOST, SCRATCH, Server, ServerError, free_port
from servers.certificates import Certificates

_FILES = Path(__file__).with_name("kafka_broker")
_JARS = SCRATCH / "kafka-jars"
_LISTENERS = ("PLAINTEXT", "INTERNAL", "SASLPT", "SASLTLS", "TLS")
_CLUSTER = "bGFiLWthZmthLWNsdXN0ZQ"
_SCRAM = [f"SCRAM-SHA-{bits}=[name=alice,password=alice-secret]" for bits in (256, 512)]
_METADATA = struct.pack(">hhih", 3, 1, 7, -1) + struct.pack(">i", 0)  # no topics, please


class Kafka(Server):
    """Apache Kafka in KRaft mode, broker and controller in one; jars from Maven Central.

    It takes the ports behind its own: the second is for brokers, the last for the controller.
    `advertised` is the port at which clients are told to reach it, its own if that is None.
    """

    package = "maven"  # brings Java
    program = "mvn"
    listeners: ClassVar[int] = 2
    """How many of PLAINTEXT, INTERNAL, SASLPT, SASLTLS, TLS there are, on successive ports."""
    settings: ClassVar[Mapping[str, str]] = {}

    def __init__(self, name: str, port: int, directory: Path | None = None) -> None:
        super().__init__(name, port, directory)
        self.advertised: int | None = None
        self.node = 1
        self.controller = port + len(_LISTENERS)
        self.replicas = 1

    @classmethod
    def private(cls) -> Self:
        port = free_port(behind=len(_LISTENERS))
        return cls(f"{cls.__name__.lower()}-{port}", port)

    def beside(self, node: int = 2) -> Self:
        """Make one more broker of the same cluster; the only controller stays this one's.

        For topics of several replicas set `replicas` first, and start this one first.
        """
        other = self.private()
        other.node, other.controller, other.replicas = node, self.controller, self.replicas
        return other

    @property
    def url(self) -> str:
        return f"kafka://{HOST}:{self.port}"

    @property
    def installed(self) -> bool:
        return all(map(shutil.which, ("mvn", "java", "openssl")))

    def port_of(self, listener: str) -> int:
        return self.port + _LISTENERS.index(listener)

    def command(self) -> Sequence[str]:
        return [
            *_java("-Xmx384m", f"-Djava.io.tmpdir={self.directory}"),
            f"-Dlog4j2.configurationFile={_FILES / 'log4j2.properties'}",
            "kafka.Kafka",
            str(self.directory / "server.properties"),
        ]

    def prepare(self) -> None:
        """Fetch the jars, write the properties, and format the data once."""
        fetch()
        properties = self.directory / "server.properties"
        properties.write_text(self._properties())
        if not (self.data / "meta.properties").exists():
            words = ["format", "-t", _CLUSTER, "-c", str(properties)]
            users = [word for user in _SCRAM for word in ("--add-scram", user)]
            _run([*_java("-Xmx256m"), "kafka.tools.StorageTool", *words, *users])

    def _properties(self) -> str:
        names = _LISTENERS[: self.listeners]
        listeners = [f"{name}://{HOST}:{self.port_of(name)}" for name in names]
        advertised = [f"PLAINTEXT://{HOST}:{self.advertised or self.port}", *listeners[1:]]
        if self.node == 1:
            listeners.append(f"CONTROLLER://{HOST}:{self.controller}")
        text = (_FILES / "server.properties").read_text()
        if self.listeners > 2:
            text += (_FILES / "security.properties").read_text()
        values = {
            "ROLES": "broker,controller" if self.node == 1 else "broker",
            "NODE": str(self.node),
            "CONTROLLER": str(self.controller),
            "LISTENERS": ",".join(listeners),
            "ADVERTISED": ",".join(advertised),
            "DATA": str(self.data),
            "REPLICAS": str(self.replicas),
            "CERTIFICATES": str(self.certificates.directory) if self.listeners > 2 else "",
        }
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        return text + "".join(f"{name}={value}\n" for name, value in self.settings.items())

    @property
    def certificates(self) -> Certificates:
        return Certificates.make(self.directory / "certificates")

    def answers(self) -> bool:
        """Whether it tells of a broker, which is itself if it is the first of its cluster."""
        with suppress(OSError), socket.create_connection((HOST, self.port), timeout=1.0) as peer:
            peer.settimeout(5.0)
            peer.sendall(struct.pack(">i", len(_METADATA)) + _METADATA)
            reply = peer.recv(64)
            return len(reply) >= 12 and struct.unpack_from(">i", reply, 8)[0] >= self.node
        return False


class SecureKafka(Kafka):
    """With listeners for SASL_PLAINTEXT, SASL_SSL, and SSL with a client certificate.

    The user is alice, her password alice-secret, with PLAIN and both kinds of SCRAM.
    """

    listeners = len(_LISTENERS)


def fetch() -> Path:
    """Bring the jars of the broker from Maven Central, once."""
    _JARS.mkdir(parents=True, exist_ok=True)
    wanted = (_FILES / "pom.xml").read_text()
    with _locked(_JARS / "fetching"):
        pom = _JARS / "pom.xml"
        if not pom.exists() or pom.read_text() != wanted:
            shutil.rmtree(_JARS / "libs", ignore_errors=True)
            output = f"-DoutputDirectory={_JARS / 'libs'}"
            _run(["mvn", "-B", "-q", "-f", str(_FILES), "dependency:copy-dependencies", output])
            pom.write_text(wanted)
    return _JARS / "libs"


@contextmanager
def _locked(file: Path) -> Generator[None]:
    with open(file, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _java(*options: str) -> list[str]:
    quick = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xshare:auto"]
    return ["java", *quick, *options, "-cp", f"{_JARS / 'libs'}/*"]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        command,
        env=os.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise ServerError(f"{command[0]} failed\n{done.stdout[-3000:]}")
