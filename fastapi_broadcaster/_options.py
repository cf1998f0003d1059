"""The options of one subscription: what `subscribe` takes, and how they travel inside."""

from dataclasses import dataclass, replace
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
        if isinstance(self.history, bool) or (isinstance(self.history, int) and self.history < 0):
            raise ValueError('history= is a number of messages, "all" or a timedelta')
        if isinstance(self.history, str) and self.history != "all":
            raise ValueError('history= is a number of messages, "all" or a timedelta')
        if self.latest and self.history is not None:
            raise ValueError("give history= or latest=, not both")
        if self.buffer_size is not None and self.buffer_size < 1:
            raise ValueError(f"buffer_size= is at least 1 message, not {self.buffer_size}")
        if self.overflow is not None and self.overflow not in OVERFLOWS:
            raise ValueError(f"overflow= is one of {', '.join(OVERFLOWS)}, not {self.overflow!r}")
        if self.on_invalid not in ("skip", "raise"):
            raise ValueError(f'on_invalid= is "skip" or "raise", not {self.on_invalid!r}')

    def but(self, *, after: str | None) -> "Options":
        """The same options, resuming behind an id unless one was given."""
        return self if after is None else replace(self, after=after)

    @property
    def wants_log(self) -> bool:
        """Whether these options need a backend with history."""
        return self.history is not None or self.latest or self.overflow == "catch_up"


class SubscribeOptions(TypedDict, total=False):
    """The keyword arguments of `subscribe`; see `Broadcaster.subscribe` for what they mean."""

    history: History | None
    after: str | None
    latest: bool
    buffer_size: int | None
    overflow: Overflow | None
    on_invalid: OnInvalid
