"""What `kafka://` knows of a log: names, ids, messages, and the proof that nothing was lost."""

import heapq
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fastapi_broadcaster.backends._kafka_driver import Record, TopicPartition
from fastapi_broadcaster.exceptions import ChannelNameError, GapReason, HistoryLostError
from fastapi_broadcaster.messages import Cursor, Message

_TOPIC = re.compile(r"[A-Za-z0-9._-]{0,249}")
_ID = re.compile(r"\d{1,9}:(?:-1|\d{1,18})(?:,\d{1,9}:(?:-1|\d{1,18}))*", re.ASCII)
_START = "-"
HEADER = "channel"


@dataclass(frozen=True, slots=True)
class Naming:
    """Which topic a channel lives in: its own, or `topic`, where the key of a record names it."""

    topic: str | None = None

    def topic_of(self, channel: str) -> str:
        return channel if self.topic is None else self.topic

    def channel_of(self, topic: str, record: Record) -> str | None:
        """The channel of a record: a header, else the key; None for one that is not a message."""
        if self.topic is None:
            return topic
        name = next((value for key, value in record.headers if key == HEADER), record.key)
        try:
            return None if name is None else name.decode()
        except UnicodeDecodeError:
            return None

    def message(self, place: TopicPartition, record: Record) -> Message | None:
        channel = self.channel_of(place.topic, record)
        if channel is None:
            return None
        position = str(place.partition), record.offset
        return Message(channel, record.value or b"", position, None, record.timestamp / 1000)

    def check(self, channel: str) -> None:
        """Raise `ChannelNameError` for a name that Kafka does not take as a topic."""
        if self.topic is None and not is_topic(channel):
            raise ChannelNameError(
                f"kafka://: the channel name {channel[:50]!r} cannot be a topic, which is at most "
                "249 of A-Z a-z 0-9 . _ -: use kafka://...?topic=NAME, which takes any name"
            )


def is_topic(name: str) -> bool:
    return _TOPIC.fullmatch(name) is not None and name not in (".", "..")


# -- cursors: partition -> offset of the last record that was read, -1 before the first one


def format_id(cursor: Cursor) -> str:
    """`partition:offset`, of each partition, as they are told; `-` is the start of the log."""
    return ",".join(f"{one}:{offset}" for one, offset in cursor.items()) or _START


def parse_id(id: str) -> Cursor:
    """Undo `format_id`; raises `HistoryLostError("reset")`."""
    if id == _START:
        return {}
    if _ID.fullmatch(id) is None:
        raise HistoryLostError("reset", kept={})
    pairs = [pair.partition(":") for pair in id.split(",")]
    return {str(int(partition)): int(offset) for partition, _, offset in pairs}


@dataclass(frozen=True, slots=True)
class Extent:
    """What the broker holds of a partition: from `start` up to, and without, `end`."""

    start: int
    end: int

    def lost(self, following: int) -> GapReason | None:
        """Why a reader whose next offset is `following` may have lost something, if so."""
        if following > self.end:
            return "reset"
        return "expired" if following < self.start else None


def beginnings(after: Cursor, extents: Mapping[int, Extent]) -> dict[int, int]:
    """The first offset behind a cursor, of each partition that the cursor tells of.

    Raises `HistoryLostError` unless the log holds everything behind it.
    """
    starts = {str(partition): extent.start - 1 for partition, extent in extents.items()}
    if any(partition not in starts for partition in after):
        raise HistoryLostError("reset", kept=starts)
    expired: dict[str, int] = {}
    for partition, offset in after.items():
        match extents[int(partition)].lost(offset + 1):
            case "reset":
                raise HistoryLostError("reset", kept=starts)
            case None:
                pass
            case _:
                expired[partition] = starts[partition]
    if expired:
        raise HistoryLostError("expired", kept={**after, **expired})
    return {int(partition): offset + 1 for partition, offset in after.items()}


def merged(found: Iterable[list[Message]]) -> list[Message]:
    """Messages of several partitions: by time, then partition, never against a partition's own."""
    lists = sorted((messages for messages in found if messages), key=_partition)
    if len(lists) == 1:
        return lists[0]
    return list(heapq.merge(*lists, key=lambda message: message.time or 0.0))


def _partition(messages: list[Message]) -> int:
    assert messages[0].position is not None
    return int(messages[0].position[0])
