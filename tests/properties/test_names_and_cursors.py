"""Patterns as Redis has them, cursors that survive being an id, templates nobody steps out of."""

from collections.abc import Iterator

import pytest
from hypothesis import strategies as st
from redis import Redis as RedisClient

from fastapi_broadcaster import ChannelNameError, ChannelTemplate, HistoryLostError, MemoryBackend
from fastapi_broadcaster._ids import Ids
from fastapi_broadcaster._patterns import matches
from fastapi_broadcaster._targets import Target, Targets
from fastapi_broadcaster.serializers import TEXT
from servers.redis import Redis
from tests.properties.trial import fails, holds

GLOBS = st.text("ab.-^\\[]*?c", max_size=10)
NAMES = st.text("abc.-^[]\\*?", min_size=1, max_size=8)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisClient]:
    with Redis.private() as server, RedisClient(port=server.port, decode_responses=True) as client:
        yield client


def redis_says(client: RedisClient, pattern: str, names: list[str]) -> list[bool]:
    """KEYS takes the same globs as PSUBSCRIBE, through the same function."""
    client.flushall()
    client.mset({name.encode(): b"" for name in names})
    found = {str(key) for key in client.keys(pattern)}
    return [name in found for name in names]


def test_patterns_match_what_redis_matches(redis: RedisClient) -> None:
    def prop(case: tuple[str, list[str]]) -> None:
        pattern, names = case
        found = [matches(pattern, name) for name in names]
        assert found == redis_says(redis, pattern, names), (pattern, names)

    holds(prop, st.tuples(GLOBS, st.lists(NAMES, min_size=1, max_size=20)), examples=1_500)


def test_the_property_finds_a_matcher_of_file_names(redis: RedisClient) -> None:
    from fnmatch import fnmatchcase

    def prop(case: tuple[str, list[str]]) -> None:
        pattern, names = case
        found = [fnmatchcase(name, pattern) for name in names]
        assert found == redis_says(redis, pattern, names), (pattern, names)

    fails(prop, st.tuples(GLOBS, st.lists(NAMES, min_size=1, max_size=20)))


# -- cursors ------------------------------------------------------------------------------------

CHANNELS = st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=4, unique=True).filter(
    lambda names: all(name.isprintable() for name in names)
)


def targets_of(names: list[str], backend: MemoryBackend) -> Targets:
    return Targets([Target(name, TEXT) for name in names], Ids(backend).format)


def test_the_cursor_of_several_channels_comes_back_from_its_id() -> None:
    backend = MemoryBackend()
    backend._counter = 1 << 31

    def prop(case: tuple[list[str], list[int]]) -> None:
        names, keys = case
        written, read = targets_of(names, backend), targets_of(names[::-1], backend)
        written.cursors = {name: {"": key} for name, key in zip(names, keys, strict=False)}
        id = written.id()
        assert id is not None
        assert id.isascii()
        assert id.isprintable()
        assert " " not in id
        assert read.parse(id, Ids(backend).parse) == written.cursors

    keys = st.lists(st.integers(0, (1 << 63) - 1), min_size=4, max_size=4)
    holds(prop, st.tuples(CHANNELS, keys), examples=300)


def test_whatever_a_client_sends_as_an_id_is_read_or_counts_as_lost() -> None:
    backend = MemoryBackend()
    both, one = targets_of(["a", "b"], backend), targets_of(["a"], backend)

    def prop(id: str) -> None:
        for targets in (both, one):
            with pytest.raises(HistoryLostError) as lost:
                targets.parse(id, Ids(backend).parse)
            assert lost.value.reason == "reset"

    holds(prop, st.one_of(st.text(), st.text("~m.eyJhIjoi-_=0", max_size=30).map("~m.".__add__)))


# -- templates ----------------------------------------------------------------------------------

SEGMENT = st.one_of(st.just("{}"), st.text("abc-_", min_size=1, max_size=4))
TEMPLATES = st.lists(SEGMENT, min_size=1, max_size=5).flatmap(
    lambda parts: st.lists(
        st.sampled_from(".:/"), min_size=len(parts) - 1, max_size=len(parts) - 1
    ).map(lambda separators: _join(parts, separators))
)
VALUES = st.lists(
    st.one_of(st.text("abäé{}|\\$", min_size=1, max_size=5), st.text(max_size=3)),
    min_size=5,
    max_size=5,
)


def _join(parts: list[str], separators: list[str]) -> str:
    named = [f"{{p{i}}}" if part == "{}" else part for i, part in enumerate(parts)]
    return named[0] + "".join(sep + part for sep, part in zip(separators, named[1:], strict=True))


def test_what_a_template_formats_it_matches_and_nobody_steps_out() -> None:
    def prop(case: tuple[str, list[str]]) -> None:
        template = ChannelTemplate(case[0], str)
        values = dict(zip(template.parameters, case[1], strict=False))
        try:
            name = template.format(**values)
        except ChannelNameError:
            return
        assert template.match(name) == values
        assert matches(template.pattern, name)
        assert name.count(".") == case[0].count(".")
        assert sum(map(name.count, ".:/")) == sum(map(case[0].count, ".:/"))

    holds(prop, st.tuples(TEMPLATES, VALUES), examples=500)


def test_two_templates_with_different_fixed_parts_never_meet() -> None:
    rooms, users = ChannelTemplate("rooms.{room}", str), ChannelTemplate("users.{user}.in", str)

    def prop(value: str) -> None:
        for template, other in ((rooms, users), (users, rooms)):
            try:
                name = template.format(**{template.parameters[0]: value})
            except ChannelNameError:
                continue
            assert other.match(name) is None

    holds(prop, st.one_of(st.text(), st.text(".:/*rooms users in", max_size=20)))
