"""The verdict on a run, from its record alone.

There are three classes of messages. An acknowledged one must reach every subscriber once. One whose
outcome is open (`maybe`, `unknown`) may arrive once or not at all. A refused one must not arrive.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from benchmarks._delivery.records import Outage, Publish, Reader, Received, Record, Resumed, Told

_Published = Mapping[Received, Publish]


class Place(NamedTuple):
    """Where gaps stand: between which two events, and how many losses belong there."""

    reader: str
    before: Received | None
    reasons: tuple[str, ...]
    losses: int
    after: Received | None


@dataclass(slots=True)
class Verdict:
    """What came of a run; `objections` are in words, and there are none if all is well."""

    acknowledged: int = 0
    maybe: int = 0
    unknown: int = 0
    refused: int = 0
    once: int = 0
    """Acknowledged messages that reached every subscriber of their channel exactly once."""
    losses: int = 0
    """Acknowledged messages that did not reach a subscriber, counted for each subscriber."""
    announced: int = 0
    """Losses with a gap at their place."""
    repeated: int = 0
    """What a client without ids got again when it came back, from a worker that was behind."""
    gaps: int = 0
    needless: int = 0
    places: list[Place] = field(default_factory=list)
    objections: list[str] = field(default_factory=list)


def check(record: Record, *, loses: str | None) -> Verdict:
    """Judge a run.

    `loses` is the reason that gaps must have where messages may be missing, because a process or a
    client was away. None: all is in a log, so that nothing may be missing, any gap is needless
    unless something is, and all readers see one order.
    """
    published: dict[str, dict[Received, Publish]] = defaultdict(dict)
    for publish in record.publishes:
        published[publish.channel][Received(publish.publisher, publish.number)] = publish
    outcomes = Counter(publish.outcome for publish in record.publishes)
    verdict = Verdict(
        acknowledged=outcomes["acknowledged"],
        maybe=outcomes["maybe"],
        unknown=outcomes["unknown"],
        refused=outcomes["refused"],
    )
    missed: set[tuple[str, Received]] = set()
    first: dict[str, _Judged] = {}
    for reader in record.readers:
        judged = _Judged(reader, published[reader.channel], verdict)
        judged.judge_events(ids=loses is None)
        losses = judged.judge_losses(allowed=loses is not None)
        judged.judge_gaps(losses, loses, record.outages)
        missed |= {(reader.channel, which) for which in judged.not_once}
        if loses is None:
            judged.judge_order(first.setdefault(reader.channel, judged))
    verdict.once = verdict.acknowledged - len(missed)
    return verdict


class _Judged:
    """One subscriber, in the light of what was published on its channel."""

    def __init__(self, reader: Reader, published: _Published, verdict: Verdict) -> None:
        self.name = reader.name
        self.not_once: set[Received] = set()
        """Acknowledged messages."""
        self.at: dict[Received, int] = {}
        """Where a message was received first."""
        self._items = reader.items
        self._published = published
        self._verdict = verdict

    def _object(self, what: str, which: Received | None) -> None:
        message = f"message {which.number} of publisher {which.publisher}" if which else "nothing"
        self._verdict.objections.append(f"{self.name}: {what} {message}")

    def judge_events(self, *, ids: bool) -> None:
        """Nothing twice, nothing that was not published, and each publisher in its order.

        Without ids a client that comes back is another subscriber, and may get again what it had.
        No order is promised for what left a process that was killed.
        """
        newest: dict[int, int] = defaultdict(lambda: -1)
        came_back = 0
        for at, item in enumerate(self._items):
            if isinstance(item, Resumed):
                came_back = at
            if not isinstance(item, Received):
                continue
            publish = self._published.get(item)
            if publish is None:
                self._object("was sent, but nobody published,", item)
            elif publish.outcome == "refused":
                self._object("was sent, though it was refused,", item)
            if item in self.at:
                again = not ids and self.at[item] < came_back
                self._verdict.repeated += again
                if not again:
                    self._object("was sent twice", item)
                if publish and publish.outcome == "acknowledged":
                    self.not_once.add(item)
                continue
            self.at[item] = at
            if publish and publish.outcome == "unknown":
                continue
            if item.number < newest[item.publisher]:
                self._object("was sent too late", item)
            newest[item.publisher] = max(newest[item.publisher], item.number)

    def judge_losses(self, *, allowed: bool) -> list[int]:
        """Return how many losses each gap announces.

        It must stand behind whatever was published before the lost message, and before whatever was
        published after it; what was published at the same time may stand on either side.
        """
        gaps = [at for at, item in enumerate(self._items) if isinstance(item, Told)]
        known = [
            (self._published[which], at)
            for which, at in self.at.items()
            if which in self._published
        ]
        ended = sorted((publish.ended, at) for publish, at in known)
        begun = sorted((publish.begun, at) for publish, at in known)
        behind = [-1, *accumulate((at for _, at in ended), max)]
        before = [*accumulate((at for _, at in reversed(begun)), min, initial=len(self._items))]
        changes = [0] * (len(gaps) + 1)
        for which, publish in self._published.items():
            if publish.outcome != "acknowledged" or which in self.at:
                continue
            self.not_once.add(which)
            self._verdict.losses += 1
            earlier = bisect_right(ended, (publish.begun, math.inf))
            later = len(begun) - bisect_left(begun, (publish.ended, -1))
            low = bisect_right(gaps, behind[earlier])
            high = bisect_left(gaps, before[later])
            if low < high:
                self._verdict.announced += 1
                changes[low] += 1
                changes[high] -= 1
            else:
                self._object("was not told of the loss of", which)
            if not allowed:
                self._object("lost", which)
        return list(accumulate(changes))[:-1]

    def judge_gaps(
        self, losses: Sequence[int], loses: str | None, outages: Sequence[Outage]
    ) -> None:
        """A place has one gap per interruption, or one where something was lost."""
        announcing = iter(losses)
        left = list(outages)
        for before, between, after in self._places():
            gaps = [item for item in between if isinstance(item, Told)]
            if not gaps:
                continue
            lost = max(next(announcing) for _ in gaps)
            causes = 0
            if loses is not None:
                here = [outage for outage in left if self._spans(before, after, outage)]
                left = [outage for outage in left if outage not in here]
                causes = len(here) + sum(isinstance(item, Resumed) for item in between)
            allowed = max(causes, int(lost > 0))
            if len(gaps) > allowed:
                self._verdict.needless += len(gaps) - allowed
                self._object(f"got {len(gaps)} gaps instead of {allowed} behind", before)
            if loses is not None and any(gap.reason != loses for gap in gaps):
                self._object(f"got a gap that is not {loses!r} behind", before)
            self._verdict.gaps += len(gaps)
            reasons = tuple(gap.reason for gap in gaps)
            self._verdict.places.append(Place(self.name, before, reasons, lost, after))

    def _places(self) -> Iterator[tuple[Received | None, list[object], Received | None]]:
        """What stands between two events, with these."""
        before: Received | None = None
        between: list[object] = []
        for item in self._items:
            if isinstance(item, Received):
                yield before, between, item
                before, between = item, []
            else:
                between.append(item)
        yield before, between, None

    def _spans(self, before: Received | None, after: Received | None, outage: Outage) -> bool:
        """Whether an outage may lie between two events, from when they were published."""
        earlier = self._published.get(before) if before else None
        later = self._published.get(after) if after else None
        down, up = outage
        return (earlier is None or earlier.begun <= up) and (later is None or later.ended >= down)

    def judge_order(self, other: _Judged) -> None:
        """On a log all readers see the same order."""
        newest = -1
        for which in self.at:
            at = other.at.get(which, -1)
            if -1 < at < newest:
                return self._object(f"has another order than {other.name} from", which)
            newest = max(newest, at)
