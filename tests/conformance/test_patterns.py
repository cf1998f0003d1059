"""Patterns are Redis globs on every backend that has them."""

from __future__ import annotations

import asyncio
import statistics
import time

import pytest

from fastapi_broadcaster import Broadcaster, ChannelNameError, ChannelTemplate, Event
from tests.backends import BackendCase
from tests.brokers import Broker
from tests.conformance.tools import PATIENCE, publish_all, reading, takes, until
from tests.conftest import Refusal

NAMES = ["a", "ab", "abc", "b", "a.b", "a.b.c", "a-b", "aB", "a*", "a?", "[ab]", "ä", "a\\b", "^"]
GLOBS = {
    "*": set(NAMES),
    "a": {"a"},
    "a*": {"a", "ab", "abc", "a.b", "a.b.c", "a-b", "aB", "a*", "a?", "a\\b"},
    "*b": {"ab", "b", "a.b", "a-b", "a\\b"},
    "a?": {"ab", "aB", "a*", "a?"},
    "a[bB]": {"ab", "aB"},
    "a[a-c]": {"ab"},
    "a[c-a]": {"ab"},
    "a[^a-z]": {"aB", "a*", "a?"},
    "a\\*": {"a*"},
    "\\[ab\\]": {"[ab]"},
    "a.*.c": {"a.b.c"},
    "[^a]": {"b", "^"},
    "[b^]": {"b", "^"},
    "a[b": {"ab"},
    "?*?*?": {"abc", "a.b", "a.b.c", "a-b", "[ab]", "a\\b"},
}


@pytest.mark.parametrize("glob", GLOBS)
async def test_globs(refused: Refusal, broadcaster: Broadcaster, name: str, glob: str) -> None:
    prefix = f"{name}."
    if refused.pattern(broadcaster, prefix + glob):
        return
    async with (
        broadcaster.subscribe(pattern=prefix + glob) as subscriber,
        reading(broadcaster.subscribe(pattern=f"{prefix}*")) as every,
    ):
        names = {one for one in NAMES if takes(broadcaster, prefix + one)}
        for one in names:
            await broadcaster.publish(prefix + one, one)
        await until(lambda: len(every.messages) == len(names))
        assert set(every.messages) == names
        found = set()
        while (item := subscriber.take()) is not None:
            assert isinstance(item.event, Event)  # type: ignore[union-attr]
            found.add(item.event.message)  # type: ignore[union-attr]
    assert found == GLOBS[glob] & names


async def test_a_template_as_a_pattern(
    refused: Refusal, broadcaster: Broadcaster, name: str
) -> None:
    """It gives the values, and drops what only the wider glob matches."""
    rooms = ChannelTemplate(f"{name}.{{room}}.{{kind}}", dict[str, int])
    if refused.pattern(broadcaster, rooms):
        return
    async with broadcaster.subscribe(pattern=rooms) as subscriber:
        await broadcaster.publish(f"{name}.a.b.c", '{"n": 1}')
        if takes(broadcaster, f"{name}.a b.c"):
            await broadcaster.publish(f"{name}.a b.c", '{"n": 2}')
        await broadcaster.channel(rooms, room="lobby", kind="chat").publish({"n": 3})
        event = await subscriber.get()
        assert event == Event(f"{name}.lobby.chat", {"n": 3})
        assert event.params == {"room": "lobby", "kind": "chat"}
        assert (subscriber.invalid, subscriber.gaps) == (0, 0)


async def test_a_pattern_is_not_a_channel_of_that_name(
    refused: Refusal, broadcaster: Broadcaster, name: str
) -> None:
    """A channel may be called as a pattern looks; subscribing to it hears only itself."""
    if refused.pattern(broadcaster, f"{name}.*"):
        return
    if not takes(broadcaster, f"{name}.*"):
        with pytest.raises(ChannelNameError):
            broadcaster.subscribe(f"{name}.*")
        return
    async with (
        reading(broadcaster.subscribe(f"{name}.*")) as channel,
        reading(broadcaster.subscribe(pattern=f"{name}.*")) as pattern,
    ):
        await publish_all(broadcaster, f"{name}.x", ["1"])
        await publish_all(broadcaster, f"{name}.*", ["2", "end"])
        await channel.until("end")
        await pattern.until("end")
    assert channel.messages == ["2", "end"]
    assert pattern.messages == ["1", "2", "end"]


async def test_order_through_a_pattern(
    refused: Refusal, case: BackendCase, broadcaster: Broadcaster, name: str
) -> None:
    """Of all channels, or at least of each of them."""
    if refused.pattern(broadcaster, f"{name}.*"):
        return
    async with reading(broadcaster.subscribe(pattern=f"{name}.*")) as reader:
        for number in range(300):
            await broadcaster.publish(f"{name}.{number % 7}", str(number))
        await until(lambda: len(reader.messages) == 300)
    found, all_of_them = [int(message) for message in reader.messages], list(range(300))
    for channel in range(7):
        wanted = [number for number in all_of_them if number % 7 == channel]
        assert [number for number in found if number % 7 == channel] == wanted
    if case.order_across:
        assert found == all_of_them


async def test_channels_of_later_are_heard_within_a_second(
    refused: Refusal,
    case: BackendCase,
    broker: Broker,
    broadcaster: Broadcaster,
    name: str,
) -> None:
    """Whoever makes them; the event names its channel, and has what the template says."""
    rooms = ChannelTemplate(f"{name}.{{room}}", str)
    if refused.pattern(broadcaster, rooms):
        return
    took: list[float] = []
    async with (
        broker.broadcaster() as other,
        broadcaster.subscribe(pattern=rooms) as subscriber,
    ):
        for turn in range(5):
            publisher = broadcaster if turn % 2 or not case.shared else other
            await publisher.publish(f"{name}.room{turn}", "hello")
            published = time.monotonic()
            async with asyncio.timeout(PATIENCE):
                event = await subscriber.get()
            took.append(time.monotonic() - published)
            assert event == Event(f"{name}.room{turn}", "hello")
            assert event.params == {"room": f"room{turn}"}
    assert statistics.median(took) < 1.0
