"""What tables say of the backends, against the package and the rows of the conformance suite."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # ships no types

from fastapi_broadcaster import Backend
from fastapi_broadcaster.backends import SCHEMES, create_backend
from servers import SERVERS
from tests.backends import CASES, BackendCase
from tests.docs.pages import DOCS, ROOT, prose

GUARANTEES, BACKENDS, README = DOCS / "guarantees.md", DOCS / "backends.md", ROOT / "README.md"
COLUMNS = ["URL", "receipt", "order", "loss", "history", "pages", "patterns"]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
_URL = re.compile(r"`([a-z-]+://[^`]*)`")


def rows(page: Path, heading: str = "") -> Iterator[list[str]]:
    """The cells of each row of a page's tables whose first cell begins with a URL."""
    for line in page.read_text().partition(heading)[2 if heading else 0].splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.lstrip().startswith("|") and re.match(r"\[?`[a-z-]+://", cells[0]):
            yield cells


def cases_of(url: str) -> list[BackendCase]:
    """The rows of the conformance suite that run what this URL names."""
    kind = type(create_backend(url))
    found = [case for case in CASES if case.backend_class is kind]
    assert found, f"{url} has no row in the conformance suite"
    return found


def case_of(url: str) -> BackendCase:
    return cases_of(url)[0]


GUARANTEED = [dict(zip(COLUMNS, row, strict=True)) for row in rows(GUARANTEES, "## By backend")]


def urls(cell: str) -> list[str]:
    return _URL.findall(cell)


def scheme(url: str) -> str:
    return url.partition("://")[0]


def test_every_row_of_the_suite_is_in_the_table_of_guarantees() -> None:
    told = {type(create_backend(urls(row["URL"])[0])) for row in GUARANTEED}
    ours = {case.backend_class for case in CASES if _is_ours(case.backend_class)}
    named = [*(f"{scheme}://" for scheme in SCHEMES), "redis://?cluster=true"]
    assert told == ours == {type(create_backend(url)) for url in named}


def _is_ours(kind: type[Backend]) -> bool:
    return kind.__module__.startswith("fastapi_broadcaster.")


@pytest.mark.parametrize("row", GUARANTEED, ids=lambda row: urls(row["URL"])[0])
def test_guarantees_are_those_that_the_suite_proves(row: dict[str, str]) -> None:
    [url] = urls(row["URL"])
    for case in cases_of(url):
        assert row["history"].startswith("yes") == case.log
        assert urls(row["history"]) == ([f"{case.instead}"] if case.instead else [])
        assert (row["pages"] != "no") == case.log
        assert row["patterns"] == ("yes" if case.patterns else "no")
        assert row["receipt"].startswith("has the id") == (case.log and case.receipts)
        assert ("`reconnected`" in row["loss"]) == case.loses_on_outage
        assert ("`expired`" in row["loss"]) == case.log
        assert ("`missed`" in row["loss"]) == case.exact_missed


@pytest.mark.parametrize("page", [README, BACKENDS], ids=lambda page: page.name)
def test_tables_of_backends(page: Path) -> None:
    """History and patterns are the last two columns; the extra is the one of the scheme."""
    heading = "## Backends" if page is README else "# Backends"
    seen: set[str] = set()
    for cells in rows(page, heading):
        if len(cells) < 4:  # the table of TLS
            continue
        for url in urls(cells[0]):
            case = case_of(url)
            assert cells[-2:] == ["yes" if fact else "no" for fact in (case.log, case.patterns)]
            extra = SCHEMES[scheme(url)][2]
            assert not extra or f"`{extra}`" in cells[2] or f"`[{extra}]`" in cells[1]
            seen.add(scheme(url))
    everything = set(SCHEMES) if page is README else {case.id for case in CASES} - {"toy"}
    assert seen >= everything & set(SCHEMES)


def test_every_backend_has_a_section_of_its_own() -> None:
    sections = set(re.findall(r"^## ([a-z-]+)$", BACKENDS.read_text(), re.MULTILINE))
    assert sections == {case.id for case in CASES if case.id in SCHEMES}


def test_every_scheme_is_named() -> None:
    text = prose(BACKENDS)
    assert [scheme for scheme in SCHEMES if f"`{scheme}://" not in text] == []


def test_urls_of_the_pages_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever copies one gets a backend, or is told of what the URL lacks: a file, a password."""
    monkeypatch.chdir(ROOT)
    for page in [README, *DOCS.rglob("*.md")]:
        for url in _URL.findall(page.read_text()):
            if scheme(url) in SCHEMES and not set(url) & set("[]{}<"):
                assert isinstance(create_backend(url), Backend), url


def test_extras_are_those_of_the_package() -> None:
    for page in (README, BACKENDS, DOCS / "migration.md"):
        for names in re.findall(r"pip install '\.\[([\w,]+)\]'", page.read_text()):
            assert set(names.split(",")) <= set(EXTRAS), page.name
    text = README.read_text()
    assert [extra for _, _, extra in SCHEMES.values() if extra and f"`{extra}`" not in text] == []


@pytest.mark.parametrize(
    "url", sorted({f"{case.id}://" for case in CASES if case.id in SCHEMES} - {"redis://"})
)
def test_options_and_their_defaults(url: str) -> None:
    """Each option of a section's tables is an argument of the class, with that default."""
    kind = case_of(url).backend_class
    section = BACKENDS.read_text().partition(f"\n## {scheme(url)}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| `([a-z_]+)` \|[^|\n]*\| ?([^|\n]*?) ?\|", section, re.MULTILINE)
    known = kind.__init__.__kwdefaults__ or {}
    for name, told in found:
        if name == "heartbeat":  # the driver's
            continue
        assert name in known, name
        default = known[name]
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert f"{default:,}".removesuffix(".0") == told.strip("`"), name
        elif isinstance(default, str) and default:
            assert told == f"`{default}`", name
    assert found


def test_variables_of_kafka() -> None:
    module = ROOT / "fastapi_broadcaster" / "backends" / "_kafka_security.py"
    read = set(re.findall(r'": "(KAFKA_\w+)"', module.read_text()))
    assert read
    assert set(re.findall(r"`(KAFKA_\w+)`", BACKENDS.read_text())) == read


def test_compose_has_the_brokers_of_the_tests() -> None:
    text = (ROOT / "compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    assert set(services) == set(SERVERS)
    for name in services:
        line = re.search(rf"^  {name}: # (.+)$", text, re.MULTILINE)
        assert line is not None
        for url in line[1].split():
            assert isinstance(create_backend(url), Backend)
    pom = (ROOT / "scripts" / "servers" / "kafka_broker" / "pom.xml").read_text()
    version = re.search(r"<kafka.version>(.+)</kafka.version>", pom)
    assert version is not None
    assert services["kafka"]["image"] == f"apache/kafka:{version[1]}"
