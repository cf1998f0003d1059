"""One writer per stream, and inline sends: the hub writes in the stream's own name."""

import asyncio
import contextvars
import types
from abc import ABC, abstractmethod
from asyncio import _enter_task, _leave_task  # pyright: ignore[reportPrivateUsage]  # for task authors
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

from starlette.types import Message as ASGIMessage
from starlette.types import Receive, Send

from fastapi_broadcaster._engine import LIVE
from fastapi_broadcaster.deliveries import View, complaints
from fastapi_broadcaster.exceptions import SerializationError
from fastapi_broadcaster.messages import Gap
from fastapi_broadcaster.subscribers import Subscriber

BODY_SIZE = 65_536  # bytes after which what waits is left to the next send
FAREWELL = 1.0  # seconds that a send may still take when the stream is to end


class StalledError(Exception):
    """The peer took nothing for `send_timeout` seconds."""


class Stream(ABC):
    """Sends what one subscriber has to one peer, as few ASGI messages as possible.

    A task of the stream's own writes; whoever serves it waits in `receive`. While that task has
    nothing to do, a flush from the hub steps `send` at once, as if the task had called it: same
    current task, same context. If `send` suspends, because the socket is full or a middleware
    waits, the task itself carries on from there.
    """

    def __init__(
        self,
        subscriber: Subscriber[Any],
        send: Send,
        *,
        send_timeout: float | None,
        ping: float | None = None,
        max_age: float | None = None,
    ) -> None:
        self.subscriber = subscriber
        self.finished = False
        self._send = send
        self._send_timeout = send_timeout
        self._ping = ping
        self._max_age = max_age
        self._ping_due = False
        self._sent = 0.0  # loop time of the last send
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._task: asyncio.Task[Any]  # set when it begins to write, before any flush
        self._context: contextvars.Context
        self._parked: asyncio.Future[None] | None = None
        self._stuck: tuple[Coroutine[Any, Any, None], Any] | None = None
        self._failure: BaseException | None = None
        self._held: Exception | None = None
        self._stall: asyncio.Timeout | None = None

    def start(self) -> str | None:
        """The id to resume from before the first event; None where waiting history brings them."""
        return None if self.subscriber.targets.pending else self.subscriber.cursor or LIVE

    @abstractmethod
    def compose(self) -> ASGIMessage | None:
        """The next ASGI message of what waits, None when nothing does."""

    def collect(self, render: Callable[[View[Any] | Gap], bytes]) -> list[bytes]:
        """Render what waits, up to `BODY_SIZE`; an error comes after what was taken before it."""
        if self._held is not None:
            raise self._held
        chunks, size = list[bytes](), 0
        while size < BODY_SIZE and not self.finished:
            try:
                if (item := self.subscriber.take()) is None:
                    break
                chunk = self._render(render, item)
            except Exception as error:
                if not chunks:
                    raise
                self._held = error
                break
            if chunk is not None:
                chunks.append(chunk)
                size += len(chunk)
        return chunks

    def _render(
        self, render: Callable[[View[Any] | Gap], bytes], item: View[Any] | Gap
    ) -> bytes | None:
        """None for a message that has no frame: it is as invalid as one that does not decode."""
        try:
            return render(item)
        except SerializationError as error:
            if isinstance(item, View):
                complaints.log(item.event.channel, error)
            self.subscriber.refuse(error)
            return None

    @abstractmethod
    def compose_ping(self) -> ASGIMessage:
        """What keeps an idle connection open."""

    async def serve(self, receive: Receive, gone: str) -> None:
        """Write until the stream ends or `receive` brings the message type `gone`.

        Raises what the writer raised; the peer's leaving is no error.
        """

        async def wait_gone() -> None:
            while (await receive())["type"] != gone:
                pass

        await self.run_beside(wait_gone())

    async def run_beside(self, reading: Coroutine[Any, Any, None]) -> None:
        """Write in a task of its own while this one reads; either end ends both."""
        self._context = contextvars.copy_context()
        writer = self._task = self._loop.create_task(self._write(), context=self._context)
        scope, read = asyncio.timeout(None), False

        def stop_reading(_: "asyncio.Task[None]") -> None:
            if not read:
                scope.reschedule(self._loop.time())

        writer.add_done_callback(stop_reading)
        try:
            async with scope:
                try:
                    await reading
                finally:
                    read = True
        except TimeoutError:
            if not scope.expired():
                raise
        finally:
            writer.cancel()
            await asyncio.wait([writer])
        if not writer.cancelled():
            writer.result()

    # -- the stream's own task --------------------------------------------------------------

    async def _write(self) -> None:
        self.subscriber.attach(self.flush)
        try:
            self._start_timers()
            while not self.finished:
                message = self.compose()
                if message is None and self._ping_due:
                    message = self.compose_ping()
                if message is not None:
                    self._sent = self._loop.time()
                    self._ping_due = False
                    await self._patiently(self._deliver(message))
                elif self.subscriber.inbox.behind:
                    await self.subscriber.inbox.read_page()
                elif self.subscriber.inbox.ended:
                    return
                else:
                    await self._park()
        finally:
            self.subscriber.detach()
            for timer in self._timers.values():
                timer.cancel()
            if self._stuck is not None:
                self._stuck[0].close()

    async def _patiently(self, sending: Awaitable[None]) -> None:
        """Give up on a peer that takes nothing; sooner when the stream is to end."""
        begun = self._loop.time()
        stall = self._stall = asyncio.timeout(self._send_timeout)
        try:
            async with stall:
                self._hurry()
                await sending
        except TimeoutError:
            if stall.expired():
                seconds = self._loop.time() - begun
                self.subscriber.stalled = True
                raise StalledError(f"took nothing for {seconds:.1f} s") from None
            raise
        finally:
            self._stall = None

    def _hurry(self) -> None:
        """A stream that is to end waits no longer than a moment for its peer."""
        soon = self._loop.time() + FAREWELL
        if self.subscriber.inbox.ended and self._stall is not None and not self._stall.expired():
            self._stall.reschedule(min(self._stall.when() or soon, soon))

    async def _park(self) -> None:
        """Wait for work; a send that an inline step left suspended is ours to finish."""
        self._parked = self._loop.create_future()
        thrown: BaseException | None = None
        try:
            await self._parked
        except asyncio.CancelledError as error:
            if self._stuck is None:
                raise
            thrown = error  # meant for the send that is suspended in this task's name
        finally:
            self._parked = None
        if self._stuck is not None:
            (sending, yielded), self._stuck = self._stuck, None
            await self._patiently(_resume(sending, yielded, thrown))
        if self._failure is not None:
            raise self._failure

    def _wake(self) -> None:
        if self._parked is not None and not self._parked.done():
            self._parked.set_result(None)

    # -- in its name ------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what waits now, if the stream's task is idle."""
        if self._parked is None or self._parked.done():
            return self._hurry()
        if not self.subscriber.inline_sends:
            return self._wake()
        try:
            while (message := self.compose()) is not None:
                self._sent = self._loop.time()
                if not self._step(message):
                    return self._wake()
                if self.finished:
                    break
        except (Exception, asyncio.CancelledError) as error:
            self._failure = error
        inbox = self.subscriber.inbox
        if self.finished or self._failure or inbox.behind or inbox.ended:
            self._wake()

    def _step(self, message: ASGIMessage) -> bool:
        """Run `send` until it returns (True) or suspends, as if the stream's task had called it."""
        sending = self._deliver(message)
        caller = asyncio.current_task()
        if caller is not None:
            _leave_task(self._loop, caller)
        _enter_task(self._loop, self._task)
        try:
            yielded = self._context.run(sending.send, None)
        except StopIteration:
            return True
        finally:
            _leave_task(self._loop, self._task)
            if caller is not None:
                _enter_task(self._loop, caller)
        self._stuck = (sending, yielded)
        return False

    async def _deliver(self, message: ASGIMessage) -> None:
        await self._send(message)

    # -- time -------------------------------------------------------------------------------

    def _start_timers(self) -> None:
        self._sent = self._loop.time()
        if self._ping is not None:
            self._timers["ping"] = self._loop.call_later(self._ping, self._check_idle, self._ping)
        if self._max_age is not None:
            self._timers["age"] = self._loop.call_later(self._max_age, self._finish)

    def _check_idle(self, ping: float) -> None:
        """Ping after `ping` seconds without a send; no timer is touched per message."""
        idle = self._loop.time() - self._sent
        if idle >= ping:
            self._ping_due = True
            self._wake()
        self._timers["ping"] = self._loop.call_later(
            ping if idle >= ping else ping - idle, self._check_idle, ping
        )

    def _finish(self) -> None:
        self.finished = True
        self._wake()


@types.coroutine
def _resume(
    sending: Coroutine[Any, Any, None], yielded: Any, thrown: BaseException | None
) -> Generator[Any, Any, None]:
    """Drive a coroutine that was begun elsewhere, from what it yielded first."""
    try:
        if thrown is not None:
            yielded = sending.throw(thrown)
        while True:
            try:
                value = yield yielded
            except BaseException as error:
                yielded = sending.throw(error)
            else:
                yielded = sending.send(value)
    except StopIteration:
        return
