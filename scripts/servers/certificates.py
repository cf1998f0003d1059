"""Certificates for servers and clients on loopback, made by openssl; no password, no keytool."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from servers.base import ServerError

_NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"


@dataclass(frozen=True)
class Certificates:
    """PEM files in a folder: two authorities, a server and a client of the first one."""

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> Certificates:
        """Make what is missing there, valid for a month."""
        directory.mkdir(parents=True, exist_ok=True)
        made = cls(directory)
        for name in ("ca", "other_ca"):
            if not (directory / f"{name}.crt").exists():
                made._authority(name)
        for name in ("server", "client"):
            if not (directory / f"{name}.crt").exists():
                made._signed(name)
        parts = [made.file(name) for name in ("server.key", "server.crt", "ca.crt")]
        (directory / "server.keystore.pem").write_text("".join(map(Path.read_text, parts)))
        return made

    def file(self, name: str) -> Path:
        return self.directory / name

    @property
    def ca(self) -> Path:
        """The authority that signed the server and the client."""
        return self.file("ca.crt")

    @property
    def other_ca(self) -> Path:
        """An authority that signed nobody."""
        return self.file("other_ca.crt")

    @property
    def server(self) -> tuple[Path, Path]:
        """Certificate and key."""
        return self.file("server.crt"), self.file("server.key")

    @property
    def client(self) -> tuple[Path, Path]:
        """Certificate and key."""
        return self.file("client.crt"), self.file("client.key")

    def _authority(self, name: str) -> None:
        usage = "keyUsage=critical,keyCertSign,cRLSign"
        self._openssl("req", "-x509", *_new(name), "-days", "30", "-addext", usage)

    def _signed(self, name: str) -> None:
        request = self.file(f"{name}.csr")
        self._openssl("req", *_new(name, out=request.name))
        extensions = self.file(f"{name}.ext")
        extensions.write_text(f"{_NAMES}\nbasicConstraints=CA:FALSE\n")
        ca = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30"]
        signed = ["-extfile", extensions.name, "-out", f"{name}.crt"]
        self._openssl("x509", "-req", "-in", request.name, *ca, *signed)
        request.unlink()
        extensions.unlink()

    def _openssl(self, *words: str) -> None:
        done = subprocess.run(
            ["openssl", *words],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            raise ServerError(f"openssl {words[0]} failed\n{done.stdout}")


def _new(name: str, *, out: str = "") -> list[str]:
    """A new key without a password, and what is asked for it."""
    key = ["-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key"]
    return [*key, "-subj", f"/CN={name}", "-out", out or f"{name}.crt"]
