"""The options of one subscription: what `subscribe` takes, and how they travel inside."""

from dataclasses import dataclass, fields, replace
from datetime import timedelta
from difflib import get_close_matches
from typing import Literal, TypedDict

from fastapi_broadcaster._buffer import OVERFLOWS, Overflow
from fastapi_broadcaster.messages import History

OnInvalid = Literal["skip", "raise"]


@dataclass(slots=True, frozen=True, kw_only=True)
class Options:
    """The options of one subscription, as they travel inside. None stands for the default."""

    history: History | None = None
    after: str | None = None
    latest: bool = False
    buffer_size: int | None = None
    overflow: Overflow | None = None
    on_invalid: OnInvalid = "skip"

    def __post_init__(self) -> None:
        if not _is_history(self.history):
            raise ValueError(
                f'history= is a number of messages, "all" or a timedelta, not {self.history!r}'
            )
        if not isinstance(self.after, str | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"after= is the id of an event, a str, not {self.after!r}")
        if not self.after:  # clients that have no id yet begin with an empty one
            object.__setattr__(self, "after", None)
        if self.latest and self.history is not None:
            raise ValueError("give history= or latest=, not both")
        if self.buffer_size is not None:
            check_number("buffer_size", self.buffer_size, int, least=1)
        if self.overflow is not None and self.overflow not in OVERFLOWS:
            raise ValueError(f"overflow= is one of {', '.join(OVERFLOWS)}, not {self.overflow!r}")
        if self.on_invalid not in ("skip", "raise"):
            raise ValueError(f'on_invalid= is "skip" or "raise", not {self.on_invalid!r}')

    @classmethod
    def of(cls, given: "SubscribeOptions", caller: str = "subscribe") -> "Options":
        """Read keyword arguments; a misspelt one is a `TypeError` that names what was meant."""
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in given if name not in known]:
            near = get_close_matches(unknown[0], known, n=1)
            hint = f"did you mean {near[0]}=?" if near else f"it has {', '.join(known)}"
            raise TypeError(f"{caller}() has no option {unknown[0]}=: {hint}")
        return cls(**given)

    def but(self, *, after: str | None) -> "Options":
        """The same options, resuming behind an id unless one was given."""
        return self if after is None else replace(self, after=after)

    @property
    def wants_log(self) -> bool:
        """Whether these options need a backend with history."""
        return self.history is not None or self.latest or self.overflow == "catch_up"


def check_seconds(**options: float | None) -> None:
    """Raise `ValueError` for a time that is not above zero; None stands for no limit."""
    for name, seconds in options.items():
        if seconds is not None and not seconds > 0:
            raise ValueError(f"{name}= is more than 0 seconds, or None for never, not {seconds}")


def _is_history(history: object) -> bool:
    if isinstance(history, timedelta):
        return history >= timedelta(0)
    if isinstance(history, int) and not isinstance(history, bool):
        return history >= 0
    return history is None or history == "all"


def check_number(name: str, value: object, kind: type[int] | type[float], *, least: int) -> None:
    """Raise `TypeError` or `ValueError`, which name the argument, for another number."""
    if isinstance(value, bool) or not isinstance(value, (int, kind)):
        raise TypeError(f"{name}= is {'an int' if kind is int else 'a number'}, not {value!r}")
    if not value >= least:
        raise ValueError(f"{name}= is at least {least}, not {value!r}")


class SubscribeOptions(TypedDict, total=False):
    """The keyword arguments of `subscribe`; see `Broadcaster.subscribe` for what they mean."""

    history: History | None
    after: str | None
    latest: bool
    buffer_size: int | None
    overflow: Overflow | None
    on_invalid: OnInvalid
