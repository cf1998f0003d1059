"""Health: how a broadcaster is."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

State = Literal["disconnected", "connecting", "connected", "reconnecting", "draining"]


@dataclass(slots=True, frozen=True, kw_only=True)
class Health:
    """How a broadcaster is, as far as this process knows.

    `since` is when `state` began, `last_error` how the connection was lost last, `reconnects` how
    often it was. `backend` never has the password of a URL.

    `lag` is the largest number of messages that wait in this process for one reader: how far the
    slowest of them is behind. At `buffer_size` it begins to lose messages or, with `"catch_up"`,
    reads the log, which counts as a full buffer. Not in it is what waits at the broker, or in the
    socket of a client. `stalled` is how many clients were closed so far because they took nothing
    for `send_timeout`.
    """

    state: State
    backend: str
    since: datetime
    last_error: str | None = None
    subscribers: int = 0
    lag: int = 0
    reconnects: int = 0
    stalled: int = 0

    def outward(self) -> "Health":
        """The same for anybody to see: nothing of where the broker is, or of what it says."""
        return replace(
            self,
            backend=self.backend.partition(":")[0],
            last_error=None if self.last_error is None else "the connection was lost",
        )


HealthHook = Callable[[Health], Awaitable[None] | None]
