"""How a property is tried out, and how it proves that it can tell a wrong variant from ours."""

import gc
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

_CALM = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def holds(
    prop: Callable[[Any], None],
    cases: SearchStrategy[Any],
    *,
    examples: int = 300,
    shrink: bool = True,
) -> None:
    """Try a property on random cases; a failure prints the case and a blob to repeat it.

    Without `shrink` the first failure is the one that is shown, where one run takes long.
    """
    trial = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=True,
        phases=list(Phase) if shrink else [Phase.generate],
        suppress_health_check=_CALM,
    )(given(cases)(prop))
    with _quiet():
        trial()


def fails(
    prop: Callable[[Any], None], cases: SearchStrategy[Any], *, examples: int = 3_000
) -> None:
    """Show that the same property finds a known wrong variant out, with an assertion."""
    trial = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=_CALM,
    )(given(cases)(prop))
    with _quiet(), warnings.catch_warnings(action="ignore"), pytest.raises(AssertionError):
        trial()


def finds(prop: Callable[[Any], None], cases: SearchStrategy[Any], *, examples: int) -> None:
    """As `fails`, for a property whose runs are not quite the same again: one failure will do."""
    found: list[AssertionError] = []

    def trying(case: Any) -> None:
        if not found:
            try:
                prop(case)
            except AssertionError as error:
                found.append(error)

    holds(trying, cases, examples=examples)
    assert found, "no case was found in which it is wrong"


@contextmanager
def _quiet() -> Iterator[None]:
    """Thousands of runs would log thousands of losses, and what failed runs leave behind."""
    logging.disable()
    try:
        yield
    finally:
        gc.collect()
        logging.disable(logging.NOTSET)
