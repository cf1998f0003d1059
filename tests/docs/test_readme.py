"""The README: its code is the code that is tested, and runs as a newcomer would run it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.docs.pages import ROOT, SNIPPETS, blocks
from tests.web.clients import WAIT, open_events
from tests.web.processes import WebServer

README = (ROOT / "README.md").read_text()
APP, ROUTER, TEXT = blocks(README, "python")


@pytest.mark.parametrize(
    ("block", "name"), [(APP, "app"), (ROUTER, "router"), (TEXT, "text")], ids=lambda one: one[:6]
)
def test_code_is_that_of_a_checked_file(block: str, name: str) -> None:
    assert block == (SNIPPETS / "readme" / f"{name}.py").read_text()


@pytest.mark.parametrize("code", [APP, ROUTER], ids=["app", "router"])
async def test_an_app_is_pasted_and_run(code: str, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(code)
    message = {"user": "ada", "text": "Hello"}
    with WebServer("main:app", directory=tmp_path, environment={"PYTHONWARNINGS": "error"}) as app:
        room = f"{app.url}/rooms/lobby"
        async with (
            open_events(f"{room}/events") as events,
            httpx2.AsyncClient(timeout=WAIT) as client,
        ):
            receipt = await client.post(room, json=message)
            assert receipt.status_code == 202
            event = await events.event()
            assert event.json == message
            assert event.id == receipt.json()["id"]
        app.terminate()


def test_plain_text_is_pasted_and_run(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(TEXT)
    command = [sys.executable, "-W", "error", "main.py"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"chatroom hello [0-9a-f]{8}-1-1\n", done.stdout)


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(name: str) -> None:
    targets: list[str] = re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text())
    paths = [ROOT / target for target in targets if "://" not in target]
    assert [str(path) for path in paths if not path.exists()] == []


def test_commands_are_there() -> None:
    for name in re.findall(r"\bscripts/(\w+)", README):
        assert (ROOT / "scripts" / name).stat().st_mode & 0o111, name
