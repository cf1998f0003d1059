"""An event loop whose clock jumps ahead whenever nothing can run: no test of time takes any."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
LONG = 3_600.0  # virtual seconds that no run may need


class _Selector(selectors.DefaultSelector):
    """Moves the clock instead of waiting; where nothing is left to wait for, that is a hang."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits and nothing will ever happen: a hang"
            self.now += max(timeout, 0)
            assert self.now < LONG, "this goes on for ever: a hang"
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, in virtual time; a hang is an `AssertionError`."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
