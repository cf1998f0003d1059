"""Debian packages, installed without letting them start their services."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")
SAVED = POLICY.with_name("policy-rc.d.saved-by-services")


class PackageError(Exception):
    """Packages are missing and could not be installed."""


def install(packages: Iterable[str]) -> None:
    """Install `packages` with apt-get, which takes root; raise PackageError if that fails."""
    names = sorted(packages)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        wanted = " ".join(names)
        raise PackageError(f"missing: {wanted}. On Debian: sudo apt-get install {wanted}")
    with services_denied():
        _apt_get("update")
        _apt_get("install", "-y", "--no-install-recommends", *names)


@contextmanager
def services_denied() -> Generator[None]:
    """Keep packages from starting services meanwhile; put policy-rc.d back as it was afterwards."""
    folder = os.open(POLICY.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if os.path.lexists(POLICY) and not os.path.lexists(SAVED):
            POLICY.rename(SAVED)
        try:
            POLICY.write_text("#!/bin/sh\nexit 101\n")
            POLICY.chmod(0o755)
            yield
        finally:
            POLICY.unlink(missing_ok=True)
            if os.path.lexists(SAVED):
                SAVED.rename(POLICY)
    finally:
        os.close(folder)


def _apt_get(*arguments: str) -> None:
    result = subprocess.run(
        ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", *arguments],
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode != 0:
        raise PackageError(f"apt-get {' '.join(arguments)} failed:\n{result.stdout}")
