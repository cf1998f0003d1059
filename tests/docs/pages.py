"""The documentation as the tests see it: files, code blocks and included snippets."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SNIPPETS = ROOT / "docs_src"
TUTORIAL = [
    DOCS / "tutorial" / f"{name}.md"
    for name in ("first-channel", "typed-channels", "history", "websocket", "several-workers")
]


def all_pages() -> list[Path]:
    return sorted(DOCS.rglob("*.md"))


def blocks(text: str, language: str) -> list[str]:
    """The fenced code blocks of a language."""
    return re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def included(page: Path) -> list[Path]:
    """The snippet files that a page shows."""
    names: list[str] = re.findall(r'^ *--8<-- "([^"]+)"$', page.read_text(), re.MULTILINE)
    return [ROOT / name for name in names]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
