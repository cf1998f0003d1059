"""The lifespan of an app: connect, let it serve, end its streams, disconnect."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

from fastapi_broadcaster import _signals

_GRACE = 3.0  # seconds that streams may still take: more than each of their last sends


class Connectable(Protocol):
    """The part of a broadcaster that a lifespan needs."""

    @property
    def entries(self) -> int: ...

    async def __aenter__(self) -> object: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    def drain(self) -> Awaitable[None]: ...


@asynccontextmanager
async def lifespan(
    broadcaster: Connectable, app: Any, *, handle_signals: bool
) -> AsyncGenerator[None]:
    """See `Broadcaster.lifespan`."""
    states = [state for state in _states(app) if not hasattr(state, "broadcaster")]
    loop = asyncio.get_running_loop()

    def drain() -> None:
        loop.call_soon_threadsafe(broadcaster.drain)

    async with broadcaster:
        for state in states:
            state.broadcaster = broadcaster
        try:
            if handle_signals:
                with _signals.chained(drain), _signals.supervised(drain):
                    yield
            else:
                yield
        finally:
            for state in states:
                del state.broadcaster
            if broadcaster.entries == 1:
                # Granian waits for no WebSocket, and lets no task go on when this one has ended
                with suppress(TimeoutError):
                    await asyncio.wait_for(broadcaster.drain(), _GRACE)


def _states(app: Any) -> list[Any]:
    """The `state` of an app and of every app mounted in it, however deep."""
    found: list[Any] = []
    waiting, seen = [app], set[int]()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if hasattr(one, "state"):
            found.append(one.state)
        waiting.extend(getattr(route, "app", None) for route in getattr(one, "routes", None) or ())
        waiting.append(getattr(one, "app", None))
    return found
