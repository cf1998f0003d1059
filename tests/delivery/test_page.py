"""The table of docs/delivery.md, and the results that it is made of."""

from __future__ import annotations

import json

from benchmarks._delivery import results
from benchmarks._delivery.backends import BACKENDS
from tests.backends import CASES


def test_every_backend_is_measured() -> None:
    logs = {case.id: case.log for case in CASES if case.id != "toy"}
    assert {name: backend.log for name, backend in BACKENDS.items()} == logs


def test_the_page_has_what_the_runs_gave() -> None:
    assert results.on_page() == results.table().strip()
    wanted = {(name, fault) for name in BACKENDS for fault in ("broker", "clients", "workers")}
    runs = results.kept()
    assert set(runs) == wanted - {("memory", "broker")}
    for run in runs.values():
        assert run["acknowledged"] >= 50_000
        assert run["objections"] == run["needless"] == 0
        assert run["fault"] != "broker" or run["maybe"] > 0
        assert run["fault"] != "clients" or run["drops"] >= 10 * run["lines"] * run["clients"]


def test_each_kill_is_kept() -> None:
    for fault, kind in (("broker", "outage"), ("workers", "restart")):
        for file in results.RESULTS.glob(f"*-{fault}.jsonl"):
            with open(file) as lines:
                assert sum(kind in json.loads(line) for line in lines) >= 10, file.name


def test_a_share_is_100_per_cent_only_when_nothing_is_missing() -> None:
    assert results.share(50_000, 50_000) == "100 %"
    assert results.share(49_999_999, 50_000_000) == "99.99 %"
    assert results.share(0, 5) == "0.00 %"


def test_what_is_kept_is_small() -> None:
    files = [*results.RESULTS.glob("*.jsonl")]
    assert sum(file.stat().st_size for file in files) < 300_000
    for file in files:
        with open(file) as lines:
            assert all(json.loads(line) for line in lines)
