"""Why a broker was lost is told, whatever chain of errors a driver makes."""

from __future__ import annotations

from fastapi_broadcaster.backends._reasons import reason


def test_errors_that_are_each_other_s_cause() -> None:
    """aiormq raises one error again and again; walking it round and round froze the loop."""
    first, second = OSError("first"), RuntimeError("second")
    first.__cause__, second.__context__ = second, first
    assert reason(first) == "first"
