"""Whoever publishes gets its own result: no hang, nothing twice, in order, one batch at a time."""

import asyncio
import random
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import strategies as st

from fastapi_broadcaster import Backend, BackendError, BackendUnavailableError, Message
from fastapi_broadcaster._publisher import Publisher, _Waiting
from fastapi_broadcaster.backends.base import Outcome
from fastapi_broadcaster.exceptions import ConnectionLostError
from fastapi_broadcaster.messages import Cursor, Gap, Position
from tests.properties.trial import fails, holds
from tests.properties.virtual_time import run

TIMEOUT = 5.0


class Broker(Backend):
    """Accepts, refuses or loses batches as a die says, and writes down what reached it."""

    def __init__(self, die: random.Random, trouble: float) -> None:
        self.die = die
        self.trouble = trouble
        self.log: list[int] = []
        self.refused: set[int] = set()
        self.in_flight = 0
        self.most_in_flight = 0
        self.withdrawn: set[int] = set()
        self.sent_after_withdrawal: set[int] = set()

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        numbers = [int(message.data) for message in messages]
        self.sent_after_withdrawal |= self.withdrawn.intersection(numbers)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self._pause()
            if self._roll():
                raise ConnectionLostError("lost before anything had left")
            if self._roll():
                raise BackendUnavailableError("lost while sending", maybe_published=True)
            outcomes = [self._accept(number) for number in numbers]
            await self._pause()
            if self._roll():
                raise BackendUnavailableError("no answer came", maybe_published=True)
            return outcomes
        finally:
            self.in_flight -= 1

    def _accept(self, number: int) -> Outcome:
        if self._roll():
            self.refused.add(number)
            return BackendError(f"refused {number}")
        self.log.append(number)
        return ("", number)

    def _roll(self) -> bool:
        return self.die.random() < self.trouble

    async def _pause(self) -> None:
        for _ in range(self.die.randrange(3)):
            await asyncio.sleep(0)
        if self._roll():
            await asyncio.sleep(self.die.random())

    async def connect(self) -> None: ...

    async def disconnect(self) -> None: ...

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, Cursor]:
        return {}

    async def unsubscribe(self, channels: Collection[str]) -> None: ...

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        yield ()


class Gate:
    """Open while what this process hears is live."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    def is_open(self) -> bool:
        return self._open.is_set()

    async def wait_open(self) -> None:
        await self._open.wait()

    def turn(self) -> None:
        if self._open.is_set():
            self._open.clear()
        else:
            self._open.set()


@dataclass(frozen=True)
class Case:
    """`steps`: one letter each. Publish, yield, cancel somebody, turn the gate, let time pass."""

    steps: str
    seed: int
    trouble: float
    most: int


CASES = st.builds(
    Case,
    steps=st.text("PPPPPYYCGT", min_size=2, max_size=80),
    seed=st.integers(0, 2**32),
    trouble=st.sampled_from([0.0, 0.05, 0.2]),
    most=st.sampled_from([1, 3, 512]),
)


class World:
    """One run: publishers that come, are cancelled and get their answers."""

    def __init__(self, case: Case, publishers: type[Publisher]) -> None:
        self.die = random.Random(case.seed)
        self.broker = Broker(self.die, case.trouble)
        self.gate = Gate()
        self.publisher = publishers(self.broker, self.gate, timeout=TIMEOUT, most=case.most)
        self.tasks: list[asyncio.Task[Position | None]] = []
        self.cancelled: set[int] = set()

    async def play(self, steps: str) -> None:
        for step in steps:
            match step:
                case "P":
                    self.tasks.append(asyncio.create_task(self._publish(len(self.tasks))))
                case "C" if self.tasks:
                    self._cancel(self.die.randrange(len(self.tasks)))
                case "G":
                    self.gate.turn()
                case "T":
                    await asyncio.sleep(self.die.random() * 3)
                case _:
                    await asyncio.sleep(0)
        await asyncio.wait(self.tasks) if self.tasks else None

    async def _publish(self, number: int) -> Position | None:
        begun = asyncio.get_running_loop().time()
        try:
            return await self.publisher.publish(Message("c", b"%d" % number))
        except BackendUnavailableError as error:
            waited = asyncio.get_running_loop().time() - begun
            if not error.maybe_published and waited < TIMEOUT - 0.001:
                raise AssertionError("gave up too early") from error
            raise

    def _cancel(self, number: int) -> None:
        task = self.tasks[number]
        if task.done():
            return
        task.cancel()
        self.cancelled.add(number)
        if number not in self.broker.log and not self.broker.in_flight:
            self.broker.withdrawn.add(number)

    def judge(self) -> None:
        log, broker = self.broker.log, self.broker
        assert len(log) == len(set(log)), "something was published twice"
        assert log == sorted(log), "not in the order of arrival"
        assert broker.most_in_flight <= 1, "two batches in flight"
        assert not broker.sent_after_withdrawal, "what had been withdrawn was sent"
        for number, task in enumerate(self.tasks):
            self._judge_answer(number, task)
        assert not self.publisher._waiting, "somebody is waiting still"
        assert not self.publisher._busy, "the next publisher would wait for ever"

    def _judge_answer(self, number: int, task: asyncio.Task[Position | None]) -> None:
        broker = self.broker
        if task.cancelled():
            assert number in self.cancelled, "somebody else's cancellation"
            return
        error = task.exception()
        if error is None:
            assert task.result() == ("", number), "somebody else's result"
            assert number in broker.log, "acknowledged, but not published"
        elif isinstance(error, AssertionError):
            raise error
        elif isinstance(error, BackendUnavailableError):
            assert error.maybe_published or number not in broker.log, "it was published"
        else:
            assert isinstance(error, BackendError), repr(error)
            assert str(error) == f"refused {number}", "somebody else's error"


def play(case: Case, publishers: type[Publisher] = Publisher) -> None:
    async def main() -> None:
        world = World(case, publishers)
        await world.play(case.steps)
        await asyncio.sleep(2 * TIMEOUT)
        world.judge()

    run(main())


def check(case: Case) -> None:
    play(case, Publisher)


def test_every_publisher_gets_its_own_answer_and_nothing_is_sent_twice() -> None:
    holds(check, CASES, examples=600)


class Repeating(Publisher):
    """Wrong: sends again what may have arrived."""

    async def _send(self, messages: Any, deadline: float | None = None) -> Any:
        for _ in range(3):
            with suppress(BackendUnavailableError):
                return await super()._send(messages, deadline)
        return await super()._send(messages, deadline)


class LedByOneCaller(Publisher):
    """Wrong: a batch leaves in a caller's task, whose cancellation takes the others with it."""

    async def _join(self, waiting: _Waiting) -> Position | None:
        self._waiting.append(waiting)
        while not waiting.future.done():
            if waiting is self._waiting[0] and not self._leading:
                batch, self._waiting = list(self._waiting), type(self._waiting)()
                await self._send_batch(batch)
            await asyncio.sleep(0)
        return waiting.future.result()

    _leading = False


class KeepingTheLine(Publisher):
    """Wrong: a cancelled publisher does not hand over to those who wait."""

    async def publish(self, message: Message) -> Position | None:
        if self._busy or self._waiting:
            return await self._join(_Waiting(message, asyncio.get_running_loop().time() + TIMEOUT))
        self._busy = True
        [outcome] = await self._send(lambda: [message], asyncio.get_running_loop().time() + TIMEOUT)
        self._next()
        return None if isinstance(outcome, BackendError) else outcome


class Unordered(Publisher):
    """Wrong: whoever finds the connection busy sends by itself."""

    async def _join(self, waiting: _Waiting) -> Position | None:
        [outcome] = await self._send(lambda: [waiting.message], waiting.deadline)
        return None if isinstance(outcome, BackendError) else outcome


@pytest.mark.parametrize("wrong", [Repeating, LedByOneCaller, KeepingTheLine, Unordered])
def test_the_property_finds_wrong_publishers(wrong: type[Publisher]) -> None:
    fails(lambda case: play(case, wrong), CASES)
