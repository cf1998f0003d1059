"""The files that type checkers read can be imported too: what they declare works as declared."""

import importlib
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).with_name("typing").glob("[!_]*.py"))


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_what_is_checked_can_be_imported(name: str) -> None:
    assert importlib.import_module(f"tests.typing.{name}").__doc__


def test_every_line_that_must_be_refused_says_with_which_error() -> None:
    text = Path(__file__).with_name("typing").joinpath("refused.py").read_text()
    assert text.count("# type: ignore[") == text.count("# type: ignore") >= 25
