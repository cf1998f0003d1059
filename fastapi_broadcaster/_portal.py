"""Portal: the way from threads and scripts to the broadcaster's event loop."""

import asyncio
import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Protocol, TypeVar

T = TypeVar("T")


class Connectable(Protocol):
    @property
    def loop(self) -> asyncio.AbstractEventLoop | None: ...

    async def connect(self) -> None: ...

    async def disconnect(self) -> None: ...


class Portal:
    """Runs coroutines from other threads, on a loop of its own where nobody runs one.

    A forked child has neither the parent's loops nor its threads: `forget` is called there, and
    returns what is the parent's.
    """

    _all: ClassVar["weakref.WeakSet[Portal]"] = weakref.WeakSet()
    # Never freed: connections that are freed leave the epoll of their loop, and with it the
    # parent's, which is the same one.
    _parents: ClassVar[list[object]] = []

    def __init__(self, broadcaster: Connectable, forget: Callable[[], object]) -> None:
        self._broadcaster = broadcaster
        self._forget = forget
        self._all.add(self)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def hand_over(self) -> None:
        """Let the running loop take the broadcaster over from a loop of this portal's own."""
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            await asyncio.to_thread(self.close)

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `work()` on the broadcaster's loop and wait; raises what it raises."""
        loop = self._find_loop()
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is loop:
            raise RuntimeError(
                "publish_sync() would block the event loop it needs: await publish() here"
            )
        if not loop.is_running():
            raise RuntimeError("the broadcaster is connected on an event loop that does not run")
        return asyncio.run_coroutine_threadsafe(work(), loop).result()

    def _find_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            connected = self._broadcaster.loop
            if connected is not None:
                return connected
            self._stop()
            loop = self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=loop.run_forever, name="broadcaster-portal", daemon=True
            )
            self._thread.start()
            while not loop.is_running():
                time.sleep(0.001)
            atexit.register(self.close)
            asyncio.run_coroutine_threadsafe(self._broadcaster.connect(), loop).result()
            return loop

    def close(self) -> None:
        """Disconnect and end the loop, if it is this portal's own; idempotent."""
        with self._lock:
            loop, thread = self._loop, self._thread
            if loop is not None and thread is not None and self._broadcaster.loop is loop:
                done = asyncio.run_coroutine_threadsafe(self._broadcaster.disconnect(), loop)
                done.result()
            self._stop()

    def _stop(self) -> None:
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
            atexit.unregister(self.close)

    @classmethod
    def after_fork(cls) -> None:
        """Begin anew in a forked child."""
        for portal in cls._all:
            cls._parents.append((portal._loop, portal._forget()))
            portal._lock = threading.Lock()
            portal._loop = portal._thread = None


os.register_at_fork(after_in_child=Portal.after_fork)
