"""Every example is served from a copy of its source: as it is, and with postponed annotations."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from servers import Redis
from tests.web.processes import WebServer

SOURCE = Path(__file__).resolve().parents[2] / "examples"
FUTURE = "from __future__ import annotations\n"


class Serve(Protocol):
    """`serve("notifications", URL="...")` starts it, or gives the one that runs already."""

    def __call__(self, app: str, **environment: str) -> WebServer: ...


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    with Redis.private() as server:
        yield server


@pytest.fixture(scope="session", params=["plain", "postponed"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a copy of `examples`; what it holds is what is imported."""
    directory = tmp_path_factory.mktemp(request.param)
    shutil.copytree(SOURCE, directory / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for file in directory.rglob("*.py"):
        text = file.read_text()
        assert FUTURE not in text, "the examples do without it, so that both ways are tested"
        if request.param == "postponed":
            file.write_text(postponed(text))
    return directory


def postponed(text: str) -> str:
    """The module with the import right behind its docstring."""
    changed, count = re.subn(r'\A("""(?:.|\n)*?"""\n)', rf"\1{FUTURE}", text)
    assert count == 1, f"no docstring in {text[:80]!r}"
    return changed


@pytest.fixture(scope="session")
def serve(source: Path) -> Iterator[Serve]:
    running: dict[tuple[str, str], WebServer] = {}
    with ExitStack() as stack:

        def serve(app: str, **environment: str) -> WebServer:
            key = app, str(environment)
            if key not in running:
                server = WebServer(f"examples.{app}:app", environment=environment, directory=source)
                running[key] = stack.enter_context(server)
            return running[key]

        yield serve
