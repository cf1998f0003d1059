"""Hooks: functions of the user's that hear of a change, and that nothing waits for."""

import asyncio
import logging
from collections.abc import Awaitable

from fastapi_broadcaster.health import Health, HealthHook

_TURNS = 4  # in which a hook that was cancelled may still go on
logger = logging.getLogger("fastapi_broadcaster")


class Hooks:
    """Calls hooks; an async one goes on in a task of its own, and ends with `close` at the latest.

    What a hook raises is logged and harms nothing.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def call(self, hook: HealthHook | None, health: Health) -> None:
        if hook is None:
            return
        try:
            rest = hook(health)
        except Exception:
            logger.exception("%s: the hook %r failed", health.backend, hook)
            return
        if rest is not None:
            task = asyncio.create_task(self._finish(rest, hook, health), name="broadcaster-hook")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _finish(self, rest: Awaitable[None], hook: HealthHook, health: Health) -> None:
        try:
            await rest
        except Exception:
            logger.exception("%s: the hook %r failed", health.backend, hook)

    async def close(self) -> None:
        """End what still runs; but not the caller, who may be a hook."""
        running = self._tasks - {asyncio.current_task()}
        for _ in range(_TURNS):
            for task in running:
                task.cancel()
            if running:
                _, running = await asyncio.wait(running, timeout=0.5)
        if running:
            logger.error("%d hooks do not end when they are cancelled", len(running))
