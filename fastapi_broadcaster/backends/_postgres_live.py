"""What a process hears of `postgres-stream://`, and how far it has come in the log."""

import base64
import logging
import re
from collections.abc import Callable, Sequence

from fastapi_broadcaster import _patterns
from fastapi_broadcaster.backends._postgres import Record
from fastapi_broadcaster.exceptions import GapReason
from fastapi_broadcaster.messages import Gap, Message

logger = logging.getLogger("fastapi_broadcaster")
_ESCAPED = re.compile(rb"\\(\\|[0-7]{3})")
Names = dict[str, int]
"""Channels or patterns, each with the id behind which it is heard."""


class Live:
    """Outlives connections: `seen` is the newest id looked at, `position` the newest handed on.

    Ids grow in the order of commits, over all channels, so that one position is enough.
    """

    def __init__(self, heard: Callable[[str], None]) -> None:
        self._heard = heard  # told the channel of every message, wanted or not
        self.channels: Names = {}
        self.patterns: Names = {}
        self.position: int | None = None
        self.seen = 0
        self.epoch = ""
        self.epochs: set[str] = set()  # those in which this process has lost nothing
        self._told: dict[str, int] = {}

    def enter(self, epoch: str, *, lost: bool = False) -> None:
        """A truncate that is heard of in its place loses nothing that was not heard before."""
        if lost:
            self.epochs.clear()
        self.epoch = epoch
        self.epochs.add(epoch)

    def start(self, position: int) -> None:
        self.position = self.seen = position

    def done(self) -> None:
        """All that was looked at is about to be handed on."""
        self.position = self.seen

    def notice(self, payload: str) -> tuple[Message, bool] | None:
        """Read a notification: a message and whether its data must be fetched; None if unwanted."""
        if payload.startswith("epoch "):
            self.enter(payload[6:])
            return None
        head, _, body = payload.partition("\n")
        try:
            number, at, kind, channel = head.split(" ", 3)
            id = int(number)
            time = int(at) / 1e6
        except ValueError:
            logger.warning("a notification that is not of the log is ignored: %.100r", payload)
            return None
        if id <= self.seen:
            return None
        self.seen = id
        self._heard(channel)
        if not self.wants(channel, id):
            return None
        data = b"" if kind == "f" else _data(kind, body)
        return Message(channel, data, ("", id), None, time), kind == "f"

    def wants(self, channel: str, id: int) -> bool:
        start = self.channels.get(channel)
        if start is not None and id > start:
            return True
        return any(
            id > start and _patterns.matches(pattern, channel)
            for pattern, start in self.patterns.items()
        )

    def gaps(self, reason: GapReason) -> list[Gap]:
        """Something of everything may be missing."""
        return [Gap(name, reason) for name in (*self.channels, *self.patterns)]

    def gaps_of(self, channel: str, reason: GapReason) -> list[Gap]:
        """Something of one channel may be missing, for whatever hears it."""
        names = [channel] if channel in self.channels else []
        names += [name for name in self.patterns if _patterns.matches(name, channel)]
        return [Gap(name, reason) for name in names]

    def page(self, rows: Sequence[Record]) -> list[Message | Gap]:
        """What a page of the log, with the floors at that time, brings to those who listen."""
        told: list[Message | Gap] = []
        for row in rows:
            channel, floor = row["channel"], row["floor"]
            if floor is not None:
                if floor > self._told.get(channel, 0):
                    self._told[channel] = floor
                    told += self.gaps_of(channel, "expired")
            elif self.wants(channel, row["id"]):
                told.append(message_of(channel, row))
        return told

    def begin(self) -> None:
        """A catch-up begins at the position: what was only looked at is looked at again."""
        self.seen = self.position or 0
        self._told.clear()


def message_of(channel: str, row: Record) -> Message:
    return Message(channel, row["data"], ("", row["id"]), None, row["at"].timestamp())


def _data(kind: str, body: str) -> bytes:
    """Undo `encode(data, 'escape')` or `encode(data, 'base64')`."""
    data = body.encode()
    if kind == "b":
        return base64.b64decode(data)
    return _ESCAPED.sub(_unescape, data) if b"\\" in data else data


def _unescape(found: re.Match[bytes]) -> bytes:
    code = found[1]
    return code if code == b"\\" else bytes([int(code, 8)])
