"""The site: it builds, loads nothing from elsewhere, and introduces names before it uses them."""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import fastapi_broadcaster
from fastapi_broadcaster import exceptions
from fastapi_broadcaster.backends import SCHEMES
from tests.docs.pages import DOCS, ROOT, SNIPPETS, TUTORIAL, all_pages, blocks, included, prose

FILES = sorted(path for path in SNIPPETS.rglob("*.py") if path.name != "__init__.py")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with --strict."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return target


def test_the_site_has_every_page(site: Path) -> None:
    for page in all_pages():
        name = page.relative_to(DOCS).with_suffix("")
        folder = site if name.name == "index" else site / name
        assert (folder / "index.html").is_file(), name


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//")
    found = [
        f"{page.name}: {match[0]}"
        for page in site.rglob("*.html")
        for match in loads.finditer(page.read_text())
    ]
    assert found == []


def test_the_site_shows_the_snippets(site: Path) -> None:
    shown = (site / "tutorial" / "first-channel" / "index.html").read_text()
    assert "EventStreamResponse" in shown
    assert "--8&lt;--" not in shown


def test_every_snippet_exists_and_is_shown() -> None:
    shown = {path for page in all_pages() for path in included(page)}
    assert [path for path in shown if not path.is_file()] == []
    readme = SNIPPETS / "readme"  # shown by the README itself
    assert [path for path in FILES if path not in shown and path.parent != readme] == []


def test_pages_show_no_python_that_is_not_run() -> None:
    for page in all_pages():
        for block in blocks(page.read_text(), "python"):
            assert re.fullmatch(r'--8<-- "docs_src/[^"]+"\n', block), (page.name, block)


def test_highlighted_lines_begin_and_end_with_code() -> None:
    fence = r'hl_lines="([\d -]+)"\n--8<-- "([^"]+)"'
    for page in all_pages():
        for numbers, name in re.findall(fence, page.read_text()):
            lines = (ROOT / name).read_text().splitlines()
            for number in re.findall(r"\d+", numbers):
                assert lines[int(number) - 1].strip(), f"line {number} of {name} on {page.name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SNIPPETS)))
def test_a_snippet_stands_on_its_own(path: Path) -> None:
    """Only its own folder, the package and what is installed with it are imported."""
    for module in _imports(path):
        assert not module.startswith(("docs_src", "tests", "examples")), module
        assert not module.startswith("fastapi_broadcaster._"), module
        if module.startswith("."):
            assert (path.parent / f"{module[1:]}.py").is_file(), module


def test_the_tutorial_introduces_names_before_it_uses_them() -> None:
    told = ""
    for page in TUTORIAL:
        told += prose(page)
        for path in included(page):
            for name in _names_of_ours(path):
                assert re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", told), f"{name} on {page.name}"


def test_the_pages_name_nothing_that_is_not_there() -> None:
    """Classes in the prose, of which the package has many, are its own or well known."""
    modules = {f"fastapi_broadcaster.backends.{module}" for module, _, _ in SCHEMES.values()}
    backends = {name for module in modules for name in dir(import_module(module))}
    known = {*dir(fastapi_broadcaster), *dir(builtins), *WELL_KNOWN, *backends}
    for page in all_pages():
        names = re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)\b", prose(page))
        for name in names:
            assert name in known or f"class {name}" in _sources(page), f"{name} on {page.name}"


def test_the_architecture_page_lists_every_module() -> None:
    package = ROOT / "fastapi_broadcaster"
    table = (DOCS / "architecture.md").read_text()
    found = {module.name for module in package.rglob("*.py")} - {"__init__.py"}
    listed = set(re.findall(r"`(\w+\.py)`", table))
    assert listed == found


def test_the_reference_lists_every_public_name() -> None:
    reference = (DOCS / "reference.md").read_text()
    assert "::: fastapi_broadcaster.exceptions" in reference
    for name in fastapi_broadcaster.__all__:
        assert hasattr(exceptions, name) or re.search(rf"\b{name}\b", reference), name


WELL_KNOWN = {
    "EventSource",
    "TestClient",
    "AsyncConnection",
    "AsyncSession",
    "LogAppendTime",
    "KillMode",
}


def _sources(page: Path) -> str:
    return "".join(path.read_text() for path in included(page))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _names_of_ours(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "fastapi_broadcaster":
            yield from (alias.name for alias in node.names)
