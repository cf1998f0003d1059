"""Group commit: how many publishers share one connection without waiting in line."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Protocol

from fastapi_broadcaster.backends.base import Backend, Outcome
from fastapi_broadcaster.exceptions import (
    BackendError,
    BackendUnavailableError,
    ConnectionLostError,
)
from fastapi_broadcaster.messages import Message, Position

_AHEAD = 128  # messages that a publisher may run ahead of the listener before it yields
_PAUSE = 0.05  # seconds between attempts while the publishing connection alone is away


class Gate(Protocol):
    """What the publisher waits for before it sends."""

    def is_open(self) -> bool: ...

    async def wait_open(self) -> None: ...


class _Waiting:
    __slots__ = ("deadline", "future", "message")

    def __init__(self, message: Message, deadline: float) -> None:
        self.message = message
        self.deadline = deadline
        self.future: asyncio.Future[Position | None] = asyncio.get_running_loop().create_future()


class Publisher:
    """Sends messages in order of arrival, one batch at a time.

    A lone message leaves in its caller's task. Those who come meanwhile leave together in a task
    of its own, which no caller's cancellation reaches; each gets its own result.
    """

    def __init__(self, backend: Backend, gate: Gate, *, timeout: float, most: int = 512) -> None:
        self._backend = backend
        self._gate = gate
        self._timeout = timeout
        self._most = most
        self._waiting: deque[_Waiting] = deque()
        self._busy = False
        self._doubtful = False  # whether the connection failed when it was used last
        self._batch: asyncio.Task[None] | None = None
        self._in_flight: list[_Waiting] = []
        self._ahead = 0
        self._closed = False

    def caught_up(self) -> None:
        """The listener has dispatched a batch."""
        self._ahead = 0

    async def publish(self, message: Message) -> Position | None:
        """Return once the broker has accepted the message, or raise; see `Backend.publish`."""
        self._ahead += 1
        if self._ahead >= _AHEAD:
            await self._yield()
        if self._busy or self._waiting:
            return await self._join(_Waiting(message, self._deadline()))
        self._busy = True
        try:
            [outcome] = await self._send(lambda: [message])
        finally:
            self._next()
        if isinstance(outcome, BackendError):
            raise outcome
        return outcome

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout

    async def _yield(self) -> None:
        """Let the listener, and then its subscribers, have their turn of the loop."""
        if self._ahead == _AHEAD:
            asyncio.get_running_loop().call_soon(self.caught_up)
        await asyncio.sleep(0)

    async def _join(self, waiting: _Waiting) -> Position | None:
        if self._closed:
            raise BackendUnavailableError("the broadcaster is disconnecting")
        self._waiting.append(waiting)
        try:
            return await waiting.future
        finally:
            if waiting.future.cancelled() and waiting in self._waiting:
                self._waiting.remove(waiting)  # it has not left yet, so it never will

    def _next(self) -> None:
        """Send what has come together meanwhile."""
        if not self._waiting:
            self._busy = False
            return
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self._most:
            waiting = self._waiting.popleft()
            if not waiting.future.done():
                batch.append(waiting)
        self._busy = bool(batch)
        self._in_flight = batch
        if batch:
            self._batch = asyncio.create_task(self._send_batch(batch), name="broadcaster-publish")

    async def _send_batch(self, batch: list[_Waiting]) -> None:
        try:
            while batch := [waiting for waiting in batch if not waiting.future.done()]:
                try:
                    await self._send_together(batch)
                except BackendUnavailableError as error:
                    now = asyncio.get_running_loop().time()
                    late = [waiting for waiting in batch if waiting.deadline <= now]
                    if error.maybe_published or not late:
                        raise
                    for waiting in late:  # the others have time left
                        if not waiting.future.done():
                            waiting.future.set_exception(error)
            await asyncio.sleep(0)  # those who were answered may go on, and leave together again
        except BaseException as error:
            closing = BackendUnavailableError(
                "the broadcaster was disconnected while it published", maybe_published=True
            )
            told = error if isinstance(error, Exception) else closing
            for waiting in batch:
                if not waiting.future.done():
                    waiting.future.set_exception(told)
            if not isinstance(error, Exception):
                raise
        finally:
            self._next()

    async def _send_together(self, batch: list[_Waiting]) -> None:
        """Send for all of them but those who have been cancelled until it leaves."""
        left: list[_Waiting] = []

        def messages() -> list[Message]:
            left[:] = [waiting for waiting in batch if not waiting.future.done()]
            return [waiting.message for waiting in left]

        outcomes = await self._send(messages, min(waiting.deadline for waiting in batch))
        for waiting, outcome in zip(left, outcomes, strict=True):
            if waiting.future.done() or isinstance(outcome, ConnectionLostError):
                continue  # of the latter nothing has left: it leaves with the next round
            if isinstance(outcome, BackendError):
                waiting.future.set_exception(outcome)
            else:
                waiting.future.set_result(outcome)

    async def _send(
        self, messages: Callable[[], list[Message]], deadline: float | None = None
    ) -> Sequence[Outcome]:
        """Wait for a live connection, then send once; again only if nothing has left."""
        lost: ConnectionLostError | None = None
        deadline = self._deadline() if deadline is None else deadline
        while True:
            try:
                while self._doubtful or not self._gate.is_open():
                    await self._until(deadline, self._gate.wait_open, lost)
                    if self._doubtful:  # to connect takes no more than the time that is left
                        await self._until(deadline, self._backend.reach, lost)
                        self._doubtful = False
                leaving = messages()
                outcomes = await self._backend.publish(leaving) if leaving else ()
                if not outcomes or not isinstance(outcomes[0], ConnectionLostError):
                    return outcomes
                if not all(isinstance(one, ConnectionLostError) for one in outcomes):
                    return outcomes
                raise outcomes[0]
            except ConnectionLostError as error:
                lost = error
                self._doubtful = True
            except BackendUnavailableError:
                self._doubtful = True
                raise
            await self._until(deadline, lambda: asyncio.sleep(_PAUSE), lost)

    async def _until(
        self, deadline: float, wait: Callable[[], Awaitable[None]], lost: Exception | None
    ) -> None:
        if asyncio.get_running_loop().time() < deadline:
            try:
                async with asyncio.timeout_at(deadline):
                    return await wait()
            except TimeoutError:
                pass
        raise BackendUnavailableError(
            f"{self._backend} was not reachable within {self._timeout:g} s; nothing was published"
        ) from lost

    async def close(self) -> None:
        """Refuse whoever waits and wait for the batch in flight; no task and no caller is left."""
        self._closed = True
        waiting = [*self._waiting]
        self._waiting.clear()
        try:
            if self._batch is not None and not self._batch.done():
                self._batch.cancel()
                await asyncio.wait([self._batch])
        finally:
            for one in (*self._in_flight, *waiting):  # a task may end before its first step
                if not one.future.done():
                    one.future.set_exception(
                        BackendUnavailableError("the broadcaster was disconnected; not published")
                    )


class Publishers:
    """A publisher for each of the backend's lanes, so that none of them waits for another."""

    def __init__(self, backend: Backend, gate: Gate, *, timeout: float) -> None:
        self._backend = backend
        self._make = partial(Publisher, backend, gate, timeout=timeout)
        self._lanes: dict[Hashable, Publisher] = {}

    def of(self, channel: str) -> Publisher:
        lane = self._backend.lane(channel)
        publisher = self._lanes.get(lane)
        if publisher is None:
            publisher = self._lanes[lane] = self._make()
        return publisher

    def caught_up(self) -> None:
        """The listener has dispatched a batch."""
        for publisher in self._lanes.values():
            publisher.caught_up()

    async def close(self) -> None:
        """Refuse whoever waits; no task and no caller is left."""
        async with AsyncExitStack() as stack:  # all of them, also when this is cancelled
            for publisher in self._lanes.values():
                stack.push_async_callback(publisher.close)
