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


def holds(prop: Callable[[Any], None], cases: SearchStrategy[Any], *, examples: int = 300) -> None:
    """Try a property on random cases; a failure prints the case and a blob to repeat it."""
    trial = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=True,
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Thousands of runs would log thousands of losses, and what failed runs leave behind."""
    logging.disable()
    try:
        yield
    finally:
        gc.collect()
        logging.disable(logging.NOTSET)
