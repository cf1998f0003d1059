"""Ids, entries and the proof, without a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_broadcaster import HistoryLostError
from fastapi_broadcaster.backends._redis_log import (
    State,
    empty_at,
    format_id,
    id_of,
    key_of,
    lost,
    message_of,
    ms_of,
    parse_id,
)

WORDS = st.integers(0, 2**64 - 1)
P = key_of(b"5000-0")
LATER = key_of(b"6000-0")
SOONER = key_of(b"4000-0")
EMPTY = empty_at(7, 5_000)


@given(WORDS, WORDS)
def test_ids_of_entries_come_back(ms: int, sequence: int) -> None:
    key = key_of(b"%d-%d" % (ms, sequence))
    assert parse_id(format_id(key)) == key
    if key:
        assert id_of(key) == b"%d-%d" % (ms, sequence)
        assert ms_of(key) == ms


@given(st.integers(1, 2**64 - 1), WORDS)
def test_ids_of_empty_channels_come_back(epoch: int, ms: int) -> None:
    position = empty_at(epoch, ms)
    id = format_id(position)
    assert id == f"0-0@{epoch:016x}@{ms}"
    assert parse_id(id) == position < 0
    assert ms_of(position) == ms
    assert id_of(position) == b"0-0"


@given(st.lists(st.tuples(WORDS, WORDS)))
def test_positions_are_ordered_as_ids(ids: list[tuple[int, int]]) -> None:
    keys = [key_of(b"%d-%d" % id) for id in sorted(ids)]
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    "id",
    [
        *("", "x", "1", "1-", "-1", "0-0", "1-2-3", " 1-2", "1-2\n", "1-٢", "~live", "~end"),
        *("0-0@7@5", "1-0@0000000000000007@5", "0-0@000000000000000g@5", "0-0@0000000000000007"),
        *(f"{2**64}-0", f"0-{2**64}", "9" * 50 + "-0", f"0-0@0000000000000007@{2**64}"),
    ],
)
def test_foreign_ids(id: str) -> None:
    with pytest.raises(HistoryLostError) as caught:
        parse_id(id)
    assert caught.value.reason == "reset"


@pytest.mark.parametrize(
    ("fields", "data"),
    [
        ([b"message", b"a"], b"a"),
        ([b"data", b"a"], b"a"),
        ([b"data", b"no", b"message", b"a"], b"a"),
        ([b"message", b"a", b"data", b"no"], b"a"),
        ([b"other", b"no", b"data", b"a"], b"a"),
        ([b"text", b"a", b"author", b"no"], b"a"),
        ([b"text", b"message", b"author", b"data"], b"message"),
        ([b"message", b""], b""),
    ],
)
def test_fields_of_an_entry(fields: list[bytes], data: bytes) -> None:
    message = message_of("room", [b"1500-3", fields])
    assert (message.channel, message.data, message.time) == ("room", data, 1.5)
    assert message.position == ("", key_of(b"1500-3"))


def stream(length: int, added: int, last: int, newest: int = 0) -> State:
    return State(newest, True, length, added, last)


@pytest.mark.parametrize(
    ("position", "state", "options", "reason"),
    [
        (0, State(0), {}, None),
        (P, stream(9, 20, LATER, newest=P), {}, None),
        (P, stream(9, 20, LATER, newest=P), {"same_life": False}, None),
        (P, stream(9, 20, LATER, newest=SOONER), {}, "expired"),
        (P, stream(9, 20, LATER), {}, "expired"),
        (P, stream(0, 20, P), {}, None),
        (P, stream(0, 20, LATER), {}, "expired"),
        (P, stream(9, 20, SOONER), {}, "reset"),
        (P, stream(9, 9, LATER), {}, "reset"),
        (P, State(0), {}, "reset"),
        (P, State(0), {"same_life": False, "ttl": 1_000}, "reset"),
        (P, State(0), {"ttl": 60_000}, "reset"),
        (P, State(0), {"ttl": 4_000}, "expired"),
        (P, State(0), {"ttl": 4_000, "as_of": 8_000}, None),
        (P, stream(9, 9, LATER), {"ttl": 4_000, "as_of": 8_000}, None),
        (P, stream(9, 10, LATER), {"ttl": 4_000, "as_of": 8_000}, "expired"),
        (EMPTY, State(0), {}, None),
        (EMPTY, State(0), {"same_life": False}, "reset"),
        (EMPTY, stream(9, 9, LATER), {}, None),
        (EMPTY, stream(9, 9, LATER), {"same_life": False}, "reset"),
        (EMPTY, stream(9, 10, LATER), {}, "expired"),
        (EMPTY, stream(0, 1, LATER), {}, "expired"),
        (EMPTY, State(0), {"ttl": 4_000}, "expired"),
        (EMPTY, State(0), {"ttl": 4_000, "as_of": 8_000}, None),
        (EMPTY, stream(9, 9, LATER), {"ttl": 6_000}, None),
    ],
)
def test_the_proof(position: int, state: State, options: dict, reason: str | None) -> None:
    """It is 10,000 ms; without `as_of` the reader knows of nothing behind its position."""
    known = {"as_of": ms_of(position), "same_life": True, "ttl": None, **options}
    assert lost(position, state, 10_000, **known) == reason
