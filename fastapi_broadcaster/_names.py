"""What a channel may be called, and what may fill the holes of a template."""

import re
import unicodedata
from enum import Enum

from fastapi_broadcaster.exceptions import ChannelNameError

NAME_LENGTH = 1_000  # characters
VALUE_LENGTH = 200  # characters
SEPARATORS = ".:/"
_FORBIDDEN = frozenset(".:/*?[]")


def check_name(name: str) -> str:
    """Return a channel name or pattern that every backend may be asked for, or raise."""
    if type(name) is not str:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ChannelNameError(f"a channel name is a str, not {type(name).__name__}")
        name = str.__str__(name)  # the value of a member of an Enum; drivers would take its label
    if not 1 <= len(name) <= NAME_LENGTH:
        raise ChannelNameError(
            f"a channel name has 1 to {NAME_LENGTH:,} characters, this one has {len(name):,}"
        )
    if name.isascii() and name.isprintable():
        return name
    for char in name:
        if unicodedata.category(char) in ("Cc", "Cs"):
            raise ChannelNameError(
                f"the channel name {name[:50]!r} has a control character, {char!r}"
            )
    return name


def check_value(parameter: str, value: object) -> str:
    """Return the text that a value puts into a template, or raise: nobody steps out of it."""
    if value is None:
        raise ChannelNameError(f"{parameter} has no value")
    if isinstance(value, Enum):
        value = value.value
    text = str(value)
    if not 1 <= len(text) <= VALUE_LENGTH:
        raise ChannelNameError(
            f"{parameter} has 1 to {VALUE_LENGTH} characters, this value has {len(text):,}"
        )
    for char in text:
        if char in _FORBIDDEN or char.isspace() or unicodedata.category(char) in ("Cc", "Cs"):
            raise ChannelNameError(f"{parameter} may not hold {char!r}")
    return text


def split(template: str) -> list[tuple[str, str]]:
    """Cut a template into `(fixed text, parameter or "")` pairs; raises `ValueError`."""
    parts: list[tuple[str, str]] = []
    at = 0
    for found in re.finditer(r"\{([^{}]*)\}", template):
        before, after = template[: found.start()][-1:], template[found.end() :][:1]
        if not found[1].isidentifier():
            raise ValueError(f"{template!r}: {{{found[1]}}} is not a parameter name")
        if (before and before not in SEPARATORS) or (after and after not in SEPARATORS):
            raise ValueError(
                f"{template!r}: {{{found[1]}}} must fill a whole segment between "
                f"the separators {' '.join(SEPARATORS)}"
            )
        parts.append((template[at : found.start()], found[1]))
        at = found.end()
    parts.append((template[at:], ""))
    names = [name for _, name in parts if name]
    if duplicate := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{template!r}: {{{duplicate}}} stands in it twice")
    fixed = "".join(text for text, _ in parts)
    if any(char in fixed for char in "{}*?[]\\"):
        raise ValueError(f"{template!r}: the fixed text may not hold {{ }} * ? [ ] or \\")
    return parts
