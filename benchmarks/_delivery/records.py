"""What is written down of a run: who published what, and what reached whom."""

from __future__ import annotations

import gzip
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

Outcome = Literal["acknowledged", "maybe", "unknown", "refused"]
"""`maybe`: raised with `maybe_published`; `unknown`: the process that published has died."""


Outage = tuple[float, float]
"""From when to when a process was away."""


class Publish(NamedTuple):
    """One call of `publish`; seconds of a clock that all processes of a machine share."""

    channel: str
    publisher: int
    number: int
    outcome: Outcome
    begun: float
    ended: float


class Received(NamedTuple):
    """An event, named by who published it and the how many-th it was."""

    publisher: int
    number: int


class Told(NamedTuple):
    """A gap."""

    reason: str


class Resumed(NamedTuple):
    """The client lost its connection here and came back."""


Item = Received | Told | Resumed


LAST = -1
"""The publisher of what is sent when all others have ended: who has it has all it will get."""


@dataclass(slots=True)
class Reader:
    """One subscriber of one channel: what reached it, in that order, over all its connections."""

    name: str
    channel: str
    items: list[Item]


@dataclass(slots=True)
class Record:
    """A whole run: `outages` of the broker, and `restarts` of workers, which clients notice."""

    about: Mapping[str, Any]
    outages: Sequence[Outage]
    restarts: Sequence[Outage]
    publishes: Sequence[Publish]
    readers: Sequence[Reader]

    def save(self, file: Path) -> None:
        """Write JSON lines, compressed."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(file, "wt") as lines:
            _write(lines, {"about": self.about})
            for outage in self.outages:
                _write(lines, {"outage": outage})
            for restart in self.restarts:
                _write(lines, {"restart": restart})
            for publish in self.publishes:
                ended = None if math.isinf(publish.ended) else publish.ended
                _write(lines, {"publish": publish._replace(ended=ended)})  # type: ignore[arg-type]
            for reader in self.readers:
                items = [[type(item).__name__, *item] for item in reader.items]
                _write(lines, {"reader": [reader.name, reader.channel, items]})

    @classmethod
    def load(cls, file: Path) -> Record:
        """Read what `save` wrote."""
        found: dict[str, list[Any]] = defaultdict(list)
        with gzip.open(file, "rt") as lines:
            for line in lines:
                [(kind, value)] = json.loads(line).items()
                found[kind].append(value)
        kinds = {kind.__name__: kind for kind in (Received, Told, Resumed)}
        return cls(
            about=found["about"][0],
            outages=[(down, up) for down, up in found["outage"]],
            restarts=[(down, up) for down, up in found["restart"]],
            publishes=[
                Publish(
                    line, publisher, number, outcome, begun, math.inf if ended is None else ended
                )
                for line, publisher, number, outcome, begun, ended in found["publish"]
            ],
            readers=[
                Reader(name, channel, [kinds[kind](*fields) for kind, *fields in items])
                for name, channel, items in found["reader"]
            ],
        )


def _write(lines: Any, value: object) -> None:
    lines.write(json.dumps(value, separators=(",", ":")) + "\n")
