"""How messages of any size and bytes, on names of any length, pass through NOTIFY.

A payload that is text of less than 8,000 bytes travels as it is, so that `pg_notify` and triggers
can take part. Anything else travels in chunks `\\x01fb1:<id>:<number>/<count>:<t or b>:<part>`, the
parts of text (t) or of its base64 (b), all in one transaction: nobody's chunks come between.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastapi_broadcaster.messages import Message

_MOST = 7_999  # bytes of a payload
_PART = 7_900  # bytes of a part
_LONGEST = 63  # bytes of a name
_HASHED = "fb1_"
_MARK = "\x01fb1:"
_CHUNK = re.compile(r"\x01fb1:([0-9a-f]{12}):(\d{1,9})/(\d{1,9}):([tb]):", re.ASCII)
_PIECE = 8 * 1024 * 1024  # bytes of one statement, unless a single message has more


def listen_name(channel: str) -> str:
    """The name to LISTEN to; one that Postgres would cut off is hashed."""
    if len(channel.encode()) <= _LONGEST and not channel.startswith(_HASHED):
        return channel
    return _HASHED + hashlib.sha256(channel.encode()).hexdigest()[:48]


def encode(data: bytes) -> list[str]:
    """The payloads of one message."""
    text = _text(data)
    if text is not None and len(data) <= _MOST:
        return [text]
    kind, body = ("t", data) if text is not None else ("b", base64.b64encode(data))
    parts = list(_parts(body))
    id = secrets.token_hex(6)
    return [f"{_MARK}{id}:{number}/{len(parts)}:{kind}:{part}" for number, part in enumerate(parts)]


def _text(data: bytes) -> str | None:
    """The data as text that Postgres takes and nobody mistakes for a chunk, else None."""
    if b"\0" in data or data.startswith(b"\x01"):
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _parts(body: bytes) -> Iterator[str]:
    """Cut UTF-8 between characters; nothing is one part, too."""
    at = 0
    while True:
        end = at + _PART
        while end < len(body) and body[end] & 0xC0 == 0x80:
            end -= 1
        yield body[at:end].decode()
        at = end
        if at >= len(body):
            return


class Joiner:
    """Joins the chunks of one connection; a run that it has not heard from its start is dropped."""

    def __init__(self) -> None:
        self._runs: dict[str, tuple[str, int, list[str]]] = {}

    def join(self, channel: str, payload: str) -> bytes | None:
        """The data of a message, None while there is more to come."""
        if not payload.startswith(_MARK) or (found := _CHUNK.match(payload)) is None:
            return payload.encode()
        id, number, count, kind = found[1], int(found[2]), int(found[3]), found[4]
        parts: list[str] = []
        run = self._runs.pop(channel, None)
        if number > 0:
            if run is None or run[:2] != (id, number):
                return None
            parts = run[2]
        parts.append(payload[found.end() :])
        if number + 1 < count:
            self._runs[channel] = (id, number + 1, parts)
            return None
        text = "".join(parts)
        return text.encode() if kind == "t" else base64.b64decode(text)

    def forget(self, channel: str) -> None:
        self._runs.pop(channel, None)


@dataclass(slots=True)
class Packed:
    """A message as it is sent."""

    name: str
    payloads: list[str]

    @property
    def size(self) -> int:
        return len(self.payloads) * _MOST if len(self.payloads) > 1 else len(self.payloads[0])


def pieces(messages: Sequence[Message]) -> Iterator[list[Packed]]:
    """Cut a batch in front of each message that its piece holds already.

    Postgres delivers one of two equal notifications of a transaction.
    """
    piece: list[Packed] = []
    seen: set[tuple[str, str]] = set()
    size = 0
    for message in messages:
        packed = Packed(listen_name(message.channel), encode(message.data))
        key = (packed.name, packed.payloads[0])
        if piece and (key in seen or size + packed.size > _PIECE):
            yield piece
            piece, size = [], 0
            seen.clear()
        piece.append(packed)
        seen.add(key)
        size += packed.size
    if piece:
        yield piece
