"""The suite itself: every promise meets every backend, and a test that skips has failed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from fastapi_broadcaster.backends import SCHEMES, create_backend
from tests.backends import CASES, row_in
from tests.conftest import PROMISES

HERE = Path(__file__).parent


def test_no_cell_is_empty() -> None:
    """Collected anew, so that it holds whatever part of the suite was asked for."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", str(HERE)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent.parent)
    assert result.returncode == 0, result.stdout + result.stderr
    found = set()
    for line in result.stdout.splitlines():
        if match := re.search(r"test_promise_(\d)\w*\.py::\w+\[(.+)\]", line):
            found.add((int(match[1]), row_in(match[2])))
    assert found == {(number, case.id) for number in PROMISES for case in CASES}


def test_every_backend_has_a_row() -> None:
    """Whoever adds a scheme adds a row."""
    classes = {type(create_backend(f"{scheme}://127.0.0.1")) for scheme in SCHEMES}
    assert classes <= {case.backend_class for case in CASES}


def test_no_test_skips() -> None:
    for path in HERE.glob("test_promise_*.py"):
        text = path.read_text()
        assert not re.search(r"\bskip\w*\(|\bxfail\b|importorskip", text), path.name
