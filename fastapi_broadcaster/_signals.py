"""One chain of signal handlers per process: end the streams, then do what was done before."""

import asyncio
import multiprocessing
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_POLL = 0.1  # seconds, as Hypercorn's own
_callbacks: list[Callable[[], None]] = []
_previous: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}


@contextmanager
def chained(callback: Callable[[], None]) -> Generator[None]:
    """Call `callback` on SIGTERM and SIGINT before the handler that was there.

    Does nothing off the main thread. The callback runs inside the signal handler: it must only
    hand over to its event loop. The previous handlers come back with the last one to leave.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if not _callbacks:
        _install()
    _callbacks.append(callback)
    try:
        yield
    finally:
        _callbacks.remove(callback)
        if not _callbacks:
            _restore()


@contextmanager
def supervised(callback: Callable[[], None]) -> Generator[None]:
    """Call `callback` when Hypercorn ends this worker: its supervisor sets an event, no signal."""
    arguments: dict[str, Any] = getattr(multiprocessing.current_process(), "_kwargs", {})
    if (event := arguments.get("shutdown_event")) is None:
        yield
        return

    async def watch() -> None:
        while not event.is_set():  # noqa: ASYNC110
            await asyncio.sleep(_POLL)  # the event is of processes: there is nothing to await
        callback()

    watching = asyncio.get_running_loop().create_task(watch(), name="broadcaster-supervised")
    try:
        yield
    finally:
        watching.cancel()


def _install() -> None:
    for number in _SIGNALS:
        _previous[number] = signal.signal(number, _handle)


def _restore() -> None:
    for number, previous in _previous.items():
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
    _previous.clear()


def _handle(number: int, frame: FrameType | None) -> None:
    for callback in list(_callbacks):
        with suppress(RuntimeError):  # its loop has gone
            callback()
    previous = _previous.get(number)
    if callable(previous):
        previous(number, frame)
    elif previous == signal.SIG_DFL:
        _restore()
        signal.raise_signal(number)
