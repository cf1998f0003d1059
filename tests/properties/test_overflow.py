"""A full buffer keeps what its policy says, and tells exactly how much is missing, and where."""

from dataclasses import dataclass

import pytest
from hypothesis import strategies as st

from fastapi_broadcaster import Gap, Message
from fastapi_broadcaster._buffer import Buffer, Overflow
from fastapi_broadcaster.deliveries import Delivery
from tests.properties.trial import fails, holds


@dataclass(frozen=True)
class Case:
    """`steps`: a letter puts a message on that channel, `!` a gap of channel a, `<` takes."""

    steps: str
    size: int


CASES = st.builds(
    Case, steps=st.text("aaabbc!<<<", max_size=60), size=st.sampled_from([1, 2, 3, 5])
)
Told = tuple[str, int]
"""A channel and the number of one of its messages, "!" and the number of a gap."""


class Run:
    """Plays a case against a buffer and, beside it, against the plainest model of its policy."""

    def __init__(self, case: Case, overflow: Overflow, buffers: type[Buffer]) -> None:
        self.case = case
        self.overflow = overflow
        self.buffer = buffers(case.size, overflow)
        self.put: list[Told] = []
        self.model: list[Told] = []  # the messages that the buffer should hold
        self.conflating = False
        self.gaps: list[Gap] = []  # taken since the last message
        self.taken: dict[str, int] = {}
        self.order: list[int] = []

    def play(self) -> None:
        for step in self.case.steps:
            if step == "<":
                self.take()
            elif step == "!":
                self.buffer.put(Gap("a", "reconnected"))
            else:
                self.offer(step)
        while self.take():
            pass
        for channel in "abc":
            self.judge_missing(channel, self.count(channel) + 1)

    def count(self, channel: str) -> int:
        return sum(name == channel for name, _ in self.put)

    def offer(self, channel: str) -> None:
        told = channel, self.count(channel) + 1
        self.put.append(told)
        assert self.buffer.put(Delivery(Message(channel, b"%d" % told[1]), {}, None))
        self.keep(told)

    def keep(self, told: Told) -> None:
        full = len(self.model) >= self.case.size
        match self.overflow:
            case "latest" if full or self.conflating:
                self.conflating = True
                self.model = [one for one in self.model if one[0] != told[0]]
                newest = dict([*self.model, told])
                order = [one for one in [*self.model, told] if newest[one[0]] == one[1]]
                self.model = order[-self.case.size :]
            case "drop_newest" if full:
                pass
            case _:
                self.model = [*self.model, told][-self.case.size :]

    def take(self) -> bool:
        item = self.buffer.take()
        if item is None:
            assert not self.model, f"the buffer is empty but for {self.model}"
        elif isinstance(item, Gap):
            assert item.reason == "reconnected" or item.missed, "a gap without anything missing"
            self.gaps.append(item)
        else:
            told = item.message.channel, int(item.message.data)
            assert told == self.model.pop(0), "not what the policy keeps"
            self.conflating = self.conflating and bool(self.model)
            self.judge_missing(*told)
            self.taken[told[0]] = told[1]
        return item is not None

    def judge_missing(self, channel: str, number: int) -> None:
        """The slow gaps since the last message of the channel say exactly what is missing."""
        mine = [gap for gap in self.gaps if (gap.channel, gap.reason) == (channel, "slow")]
        self.gaps = [gap for gap in self.gaps if gap not in mine]
        told = sum(gap.missed or 0 for gap in mine)
        missing = number - self.taken.get(channel, 0) - 1
        assert told == missing, f"{told} said to be missing before {channel}{number}: {missing} are"


DROPPING: list[Overflow] = ["drop_oldest", "drop_newest", "latest"]


@pytest.mark.parametrize("overflow", DROPPING)
def test_what_is_kept_and_what_is_told_are_exact(overflow: Overflow) -> None:
    holds(lambda case: Run(case, overflow, Buffer).play(), CASES, examples=1_500)


class Uncounted(Buffer):
    """Wrong: one gap for whatever is missing."""

    def take(self) -> Delivery | Gap | None:
        item = super().take()
        if isinstance(item, Gap) and item.reason == "slow":
            return Gap(item.channel, "slow", 1)
        return item


class Unsettled(Buffer):
    """Wrong: tells what was dropped only at the end."""

    def _settle_skipped(self) -> None: ...

    def _tell_before(self, gap: Gap) -> None:
        if gap.missed is not None:
            self._skipped[gap.channel] = self._skipped.get(gap.channel, 0) + gap.missed


@pytest.mark.parametrize("overflow", DROPPING)
@pytest.mark.parametrize("wrong", [Uncounted, Unsettled])
def test_the_property_finds_wrong_buffers(wrong: type[Buffer], overflow: Overflow) -> None:
    fails(lambda case: Run(case, overflow, wrong).play(), CASES)


def places(overflow: Overflow, steps: str) -> str:
    """What one gets, in a notation like that of the steps; `(2a)` are two missing on a."""
    buffer, out = Buffer(3, overflow), ""
    for count, step in enumerate(steps, 1):
        if step == "!":
            buffer.put(Gap("a", "reconnected"))
        else:
            buffer.put(Delivery(Message(step, b"%d" % count), {}, None))
    while (item := buffer.take()) is not None:
        if isinstance(item, Gap):
            out += f"({item.missed}{item.channel})" if item.missed else "!"
        else:
            out += f"{item.message.channel}{item.message.data.decode()} "
    return out


@pytest.mark.parametrize(
    ("overflow", "steps", "expected"),
    [
        ("drop_oldest", "aaaaa", "(2a)a3 a4 a5 "),
        ("drop_newest", "aaaaa", "a1 a2 a3 (2a)"),
        ("latest", "aaaaa", "(4a)a5 "),
        ("drop_oldest", "a!aaa", "(1a)!a3 a4 a5 "),
        ("drop_oldest", "a!aab", "(1a)!a3 a4 b5 "),
        ("drop_newest", "aaaaa!", "a1 a2 a3 (2a)!"),
        ("drop_newest", "aaaaa!bb", "a1 a2 a3 (2a)!(2b)"),
        ("latest", "a!bbb", "(2b)a1 !b5 "),
        ("latest", "b!bba", "(2b)!b4 a5 "),
        ("latest", "bba!b", "(2b)a3 !b5 "),
        ("drop_oldest", "aaa!!!", "a1 a2 a3 !"),
    ],
)
def test_where_gaps_stand(overflow: Overflow, steps: str, expected: str) -> None:
    assert places(overflow, steps) == expected
