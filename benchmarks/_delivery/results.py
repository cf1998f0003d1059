"""What is kept of a run: its verdict, each kill, and each place with a gap; and the table of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from benchmarks._delivery.backends import BACKENDS
from benchmarks._delivery.checker import Verdict
from benchmarks._delivery.records import Record, Resumed
from benchmarks._delivery.workers import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "delivery"
PAGE = ROOT / "docs" / "delivery.md"
_MARKS = ("<!-- begin: benchmarks/delivery.py --table -->\n", "<!-- end -->")
_TITLES = {
    "broker": "## (a) The broker is killed",
    "clients": "## (b) Clients drop and resume",
    "workers": "## (c) Workers are killed",
}
_COLUMNS = [
    "backend",
    "sent",
    "open",
    "refused",
    "complete",
    "lost",
    "told",
    "gaps",
    "needless",
    "again",
]


def void(record: Record, verdict: Verdict) -> str:
    """Why a run proves nothing, "" if it does."""
    if record.about["fault"] == "broker":
        return "" if verdict.maybe else "no kill was in mid-batch: nothing is maybe_published"
    came_back = any(isinstance(item, Resumed) for one in record.readers for item in one.items)
    return "" if came_back else "no client had to come back"


def save(record: Record, verdict: Verdict) -> None:
    """Keep a run in place of the last one of the same backend and fault."""
    about = record.about
    told = asdict(verdict)
    places, objections = told.pop("places"), told.pop("objections")
    begun = min(publish.begun for publish in record.publishes)
    lines: list[dict[str, Any]] = [{"run": {**about, **told, "objections": len(objections)}}]
    lines += [{"objection": text} for text in objections[:100]]
    for kind, times in (("outage", record.outages), ("restart", record.restarts)):
        lines += [{kind: [round(at - begun, 3) for at in one]} for one in times]
    lines += [{"place": place} for place in places]
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / f"{about['backend']}-{about['fault']}.jsonl"
    file.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


def kept() -> dict[tuple[str, str], Mapping[str, Any]]:
    """The first lines of all runs that are kept, by backend and fault."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for file in RESULTS.glob("*.jsonl"):
        with open(file) as lines:
            run = json.loads(lines.readline())["run"]
        found[run["backend"], run["fault"]] = run
    return found


def table() -> str:
    """Markdown, one table per fault."""
    runs = kept()
    parts: list[str] = []
    for fault, title in _TITLES.items():
        ran = [runs[name, fault] for name in BACKENDS if (name, fault) in runs]
        parts += [title, "", *_rows(ran), ""] if ran else []
    return "\n".join(parts)


def _rows(runs: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    yield _row(_COLUMNS)
    yield _row(["---", *["---:"] * (len(_COLUMNS) - 1)])
    for run in runs:
        numbers = [run["acknowledged"], run["maybe"] + run["unknown"], run["refused"]]
        told = share(run["announced"], run["losses"]) if run["losses"] else "-"
        yield _row(
            [
                f"`{run['backend']}`",
                *(f"{number:,}" for number in numbers),
                share(run["once"], run["acknowledged"]),
                f"{run['losses']:,}",
                told,
                f"{run['gaps']:,}",
                f"{run['needless']:,}",
                f"{run['repeated']:,}",
            ]
        )


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def share(part: int, whole: int) -> str:
    """Per cent, cut off, so that 100 % is all of them."""
    return "100 %" if part == whole else f"{int(10_000 * part / whole) / 100:.2f} %"


def write_page() -> None:
    """Put the table in its place on the page."""
    begin, end = _MARKS
    head, _, rest = PAGE.read_text().partition(begin)
    _, _, tail = rest.partition(end)
    PAGE.write_text(f"{head}{begin}\n{table().strip()}\n\n{end}{tail}")


def on_page() -> str:
    """The table that stands there."""
    begin, end = _MARKS
    return PAGE.read_text().partition(begin)[2].partition(end)[0].strip()
