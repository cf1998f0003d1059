"""How messages pass through NOTIFY, without a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_broadcaster import Message
from fastapi_broadcaster.backends._postgres_wire import Joiner, encode, listen_name, pieces


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_come_back(data: bytes) -> None:
    joiner = Joiner()
    *parts, whole = [joiner.join("room", payload) for payload in encode(data)]
    assert whole == data
    assert set(parts) <= {None}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * 7_999,
        b"x" * 8_000,
        "é".encode() * 3_999 + b"x",
        "é".encode() * 4_000,
        "x€".encode() * 262_144,
        "\U0001f600".encode() * 262_144,
        b"\0" * 1_048_576,
        b"\xff" * 6_000,
        b"\x01fb1:000000000000:0/1:t:x",
        b"\x01",
    ],
    ids=lambda data: f"{len(data)}-{data[:2].hex()}",
)
def test_payloads_are_what_postgres_takes(data: bytes) -> None:
    payloads = encode(data)
    assert all(len(payload.encode()) < 8_000 and "\0" not in payload for payload in payloads)
    joiner = Joiner()
    assert [joiner.join("room", payload) for payload in payloads][-1] == data


def test_plain_text_stays_plain() -> None:
    for text in ("", "hello", "é" * 3_999, '{"a": "\\u0000"}'):
        assert encode(text.encode()) == [text]


def test_a_run_that_is_not_whole_is_dropped() -> None:
    first, second = (encode(letter.encode() * 20_000) for letter in "ab")
    joiner = Joiner()
    assert [joiner.join("room", payload) for payload in first[1:]] == [None, None]
    assert [joiner.join("room", payload) for payload in first[:2]] == [None, None]
    assert [joiner.join("room", payload) for payload in second] == [None, None, b"b" * 20_000]
    assert joiner.join("room", first[2]) is None
    assert [joiner.join("room", payload) for payload in (first[0], *second[1:])] == [None] * 3
    assert joiner.join("room", "plain") == b"plain"


def test_what_others_mark_alike_is_plain() -> None:
    assert Joiner().join("room", "\x01fb1:not ours") == b"\x01fb1:not ours"


def test_names() -> None:
    short = "é" * 31 + "x"
    assert listen_name(short) == short
    long = {listen_name("x" * length) for length in range(64, 1_001)}
    assert len(long) == 937
    assert all(len(name.encode()) < 64 for name in long)
    hashed = listen_name("x" * 64)
    assert listen_name(hashed) != hashed  # nobody hears a long name by its hash


def test_a_batch_is_cut_in_front_of_an_equal_message() -> None:
    batch = [Message("a", b"x"), Message("b", b"x"), Message("a", b"x"), Message("a", b"y")]
    cut = [[(one.name, one.payloads) for one in piece] for piece in pieces(batch)]
    assert cut == [[("a", ["x"]), ("b", ["x"])], [("a", ["x"]), ("a", ["y"])]]


def test_a_batch_is_cut_by_its_size() -> None:
    batch = [Message("a", b"x" * 1_048_576) for _ in range(20)]
    sizes = [len(piece) for piece in pieces(batch)]
    assert sum(sizes) == 20
    assert len(sizes) == 3
