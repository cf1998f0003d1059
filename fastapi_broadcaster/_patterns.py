"""Redis globs: `*` any characters, `?` one, `[ab]` one of these, `[^a]` one not, `\\` escapes."""

import re
from functools import lru_cache


def matches(pattern: str, channel: str) -> bool:
    """Whether the glob matches the whole channel name: its UTF-8 bytes, as in Redis."""
    return compile(pattern).fullmatch(_bytewise(channel)) is not None


def _bytewise(text: str) -> str:
    """One character per byte of UTF-8, so that `?` and sets mean here what they mean in Redis."""
    return text if text.isascii() else text.encode().decode("latin-1")


@lru_cache(maxsize=1024)
def compile(pattern: str) -> re.Pattern[str]:
    """Translate a Redis glob; a `[` that is never closed runs to the end, as in Redis."""
    pattern = _bytewise(pattern)
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            out.append(".*")
        elif char == "?":
            out.append(".")
        elif char == "[":
            body, at = _set(pattern, at)
            out.append(body)
        else:
            if char == "\\" and at < len(pattern):
                char = pattern[at]
                at += 1
            out.append(re.escape(char))
    return re.compile("".join(out), re.DOTALL)


def _set(pattern: str, at: int) -> tuple[str, int]:
    negated = pattern[at : at + 1] == "^"
    at += negated
    members: list[str] = []
    while at < len(pattern) and pattern[at] != "]":
        if pattern[at] == "\\" and at + 1 < len(pattern):
            members.append(re.escape(pattern[at + 1]))
            at += 2
        elif pattern[at + 1 : at + 2] == "-" and at + 2 < len(pattern):
            low, high = sorted((pattern[at], pattern[at + 2]))
            members.append(f"{re.escape(low)}-{re.escape(high)}")
            at += 3
        else:
            members.append(re.escape(pattern[at]))
            at += 1
    if not members:
        return ("." if negated else "(?!)"), at + 1
    return f"[{'^' if negated else ''}{''.join(members)}]", at + 1


def is_literal(pattern: str) -> bool:
    """Whether the text has nothing of a glob in it."""
    return not any(char in pattern for char in "*?[\\")
