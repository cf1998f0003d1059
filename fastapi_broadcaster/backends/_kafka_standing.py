"""What this process hears over `kafka://` and where it stands; outlives connections."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from fastapi_broadcaster import _patterns
from fastapi_broadcaster.backends._kafka_driver import TopicPartition
from fastapi_broadcaster.backends._kafka_log import Extent, Naming
from fastapi_broadcaster.exceptions import GapReason
from fastapi_broadcaster.messages import Cursor, Message

Offsets = Mapping[int, int]
"""By partition: the offset of what comes next."""


@dataclass(slots=True)
class Standing:
    """Topics and where they are read, channels and patterns and from where on they are heard."""

    naming: Naming
    places: dict[str, dict[int, int]] = field(default_factory=dict[str, dict[int, int]])
    channels: dict[str, Offsets] = field(default_factory=dict[str, Offsets])
    patterns: dict[str, dict[str, Offsets]] = field(default_factory=dict[str, dict[str, Offsets]])

    def enter(self, topic: str, ends: Offsets) -> None:
        """Begin to read a topic: at its end, or at its start if it came after those who hear it."""
        if topic not in self.places:
            late = self.naming.topic is None and any(self._matching(topic))
            self.places[topic] = dict.fromkeys(ends, 0) if late else dict(ends)

    def join(self, channel: str, ends: Mapping[str, Offsets]) -> Cursor:
        """Hear a channel from the end of its topic on; a known one goes on where it is."""
        topic = self.naming.topic_of(channel)
        if channel in self.channels:
            begin: Offsets = self.places[topic]
        else:
            begin = self.channels[channel] = ends[topic]
        return {str(partition): offset - 1 for partition, offset in begin.items()}

    def pjoin(self, pattern: str, ends: Mapping[str, Offsets]) -> None:
        self.patterns.setdefault(pattern, dict(ends))

    def leave(self, channels: Iterable[str], patterns: Iterable[str]) -> None:
        """Forget them, and the topics that nobody hears any more."""
        for channel in channels:
            self.channels.pop(channel, None)
        for pattern in patterns:
            self.patterns.pop(pattern, None)
        for topic in [topic for topic in self.places if not any(self.hearers(topic))]:
            del self.places[topic]

    def _matching(self, topic: str) -> Iterator[str]:
        return (pattern for pattern in self.patterns if _patterns.matches(pattern, topic))

    def hearers(self, topic: str) -> Iterator[str]:
        """The channels and patterns that are heard in a topic."""
        if self.naming.topic is not None:
            yield from self.channels
            yield from self.patterns
            return
        if topic in self.channels:
            yield topic
        yield from self._matching(topic)

    def hears(self, place: TopicPartition, message: Message) -> bool:
        """Whether somebody hears the channel, and did so when the message was published."""
        assert message.position is not None
        offset = message.position[1]
        since = self.channels.get(message.channel)
        if since is not None and offset >= since.get(place.partition, 0):
            return True
        return any(
            offset >= topics.get(place.topic, {}).get(place.partition, 0)
            and _patterns.matches(pattern, message.channel)
            for pattern, topics in self.patterns.items()
        )

    def prove(self, topic: str, starts: Offsets, ends: Offsets) -> GapReason | None:
        """Why something may be missing where a topic is read; it then goes on at what is left."""
        places = self.places[topic]
        extents = {one: Extent(start, ends[one]) for one, start in starts.items()}
        reasons: set[GapReason | None] = {
            extents[one].lost(places[one]) if one in extents else "reset" for one in places
        }
        reason: GapReason | None = "expired" if "expired" in reasons else None
        if "reset" in reasons:
            reason = "reset"
            places.clear()
            self._hear_all(topic)
        for one, extent in extents.items():
            places[one] = max(places.get(one, extent.start), extent.start)
        return reason

    def _hear_all(self, topic: str) -> None:
        """It is another log: whatever it holds was published while it was heard."""
        for channel in self.channels:
            if self.naming.topic_of(channel) == topic:
                self.channels[channel] = {}
        for topics in self.patterns.values():
            topics.pop(topic, None)
