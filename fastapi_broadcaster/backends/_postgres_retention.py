"""Keeps the log of `postgres-stream://` short: by number and by age, a little at a time."""

import asyncio
import logging
import random
import time
from datetime import timedelta

from fastapi_broadcaster.backends._postgres import Pool
from fastapi_broadcaster.backends._postgres_schema import Schema
from fastapi_broadcaster.exceptions import BackendError, BackendUnavailableError

logger = logging.getLogger("fastapi_broadcaster")
_MOST = 1_000  # messages deleted in one transaction
_LOOKS = 8  # times a channel is looked at while `keep` messages come
_PAUSE = 5.0  # seconds after a failure


class Retention:
    """Trims channels that messages are heard of, whoever publishes them.

    Which ones are looked at is drawn by lot, so that a channel keeps about an eighth more than
    `keep` messages, and nothing has to be counted. Every process does this; they take turns.
    """

    def __init__(
        self, pool: Pool, schema: Schema, *, keep: int | None, max_age: float | None
    ) -> None:
        self._pool = pool
        self._keep = keep
        self._age = None if max_age is None else timedelta(seconds=max_age)
        self._pause = None if max_age is None else min(max(max_age / 10, 0.5), 60.0)
        self._odds = 0.0 if keep is None else _LOOKS / keep
        self._due: set[str] = set()
        self._wake: asyncio.Event | None = None
        self._trim_sql = f"select {schema.table}_trim($1, $2, $3)"
        self._expire_sql = f"select {schema.table}_expire($1, $2)"
        self._expired = 0.0

    def heard(self, channel: str) -> None:
        """A message of this channel has come."""
        if random.random() < self._odds:
            self._due.add(channel)
            if self._wake is not None:
                self._wake.set()

    async def run(self) -> None:
        """Trim for ever."""
        wake = self._wake = asyncio.Event()
        while True:
            try:
                async with asyncio.timeout(self._pause):
                    await wake.wait()
            except TimeoutError:
                pass
            wake.clear()
            due, self._due = self._due, set()
            try:
                await self._trim(sorted(due))
                await self._expire()
            except BackendError as error:
                self._due |= due
                if not isinstance(error, BackendUnavailableError):
                    logger.warning("old messages could not be deleted: %s", error)
                await asyncio.sleep(_PAUSE)

    async def _trim(self, channels: list[str]) -> None:
        while channels and await self._run(self._trim_sql, channels, self._keep, _MOST) == _MOST:
            pass

    async def _expire(self) -> None:
        if self._pause is None or time.monotonic() - self._expired < self._pause:
            return
        while await self._run(self._expire_sql, self._age, _MOST) == _MOST:
            pass
        self._expired = time.monotonic()

    async def _run(self, sql: str, *arguments: object) -> object:
        [record] = await self._pool.fetch(sql, *arguments)
        return record[0]
