"""How `redis-stream://` reads its log: pages, over connections that publishers do not use."""

from datetime import UTC, datetime, timedelta
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from fastapi_broadcaster.backends._redis import Server, ask, pack
from fastapi_broadcaster.backends._redis_log import (
    Facts,
    id_of,
    lost,
    message_of,
    ms_of,
    questions,
)
from fastapi_broadcaster.backends._redis_reader import Settings
from fastapi_broadcaster.exceptions import (
    BackendUnavailableError,
    ConnectionLostError,
    HistoryLostError,
)
from fastapi_broadcaster.messages import Message

_IDLE = 8  # connections that are kept
_TIMEOUT = 30.0  # seconds for a page, which may be large
_1970 = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Pages:
    """Reads pages of at most `limit` messages, oldest first."""

    def __init__(self, server: Server, settings: Settings) -> None:
        self._server = server
        self._settings = settings
        self._idle: list[AbstractConnection] = []
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)

    async def newest(self, channel: str, limit: int) -> list[Message]:
        return await self._backwards(channel, b"+", limit)

    async def before(self, channel: str, position: int, limit: int) -> list[Message]:
        if position <= 0:
            return []
        return await self._backwards(channel, b"(" + id_of(position), limit)

    async def _backwards(self, channel: str, end: bytes, limit: int) -> list[Message]:
        key = self._settings.key(channel)
        [entries] = await self._ask(
            pack(b"XREVRANGE", key, end, b"-", b"COUNT", b"%d" % limit),
        )
        return [message_of(channel, entry) for entry in reversed(entries)]

    async def since(self, channel: str, since: datetime, limit: int) -> list[Message]:
        ms = max(0, -((_1970 - since.astimezone(UTC)) // _MILLISECOND))  # rounded up
        [entries] = await self._ask(self._forwards(channel, b"%d" % ms, limit))
        return [message_of(channel, entry) for entry in entries]

    def _forwards(self, channel: str, start: bytes, limit: int) -> bytes:
        key = self._settings.key(channel)
        return pack(b"XRANGE", key, start, b"+", b"COUNT", b"%d" % limit)

    async def after(self, channel: str, position: int, limit: int) -> list[Message]:
        """The page behind a position, and then the proof that nothing was lost before it."""
        start = b"(" + id_of(position) if position > 0 else b"-"
        page = self._forwards(channel, start, limit)
        if position == 0:
            [entries] = await self._ask(page)
        else:
            where = [(self._settings.key(channel), position)]
            replies = await self._ask(page, *questions(self._settings.epoch_key, where))
            entries = replies[0]
            with self._server.errors():
                self._prove(position, Facts.of(replies[1:]))
        return [message_of(channel, entry) for entry in entries]

    def _prove(self, position: int, facts: Facts) -> None:
        [state] = facts.states
        reason = lost(
            position,
            state,
            facts.now,
            as_of=ms_of(position),
            same_life=facts.knows(position, facts.epoch),
            ttl=self._settings.ttl,
        )
        if reason is not None:
            kept = facts.kept(state)
            raise HistoryLostError(reason, kept={"": kept} if kept else {})

    async def _ask(self, *commands: bytes) -> list[Any]:
        """Ask, and ask again if it was over an idle connection that turned out to be dead."""
        while True:
            reused = bool(self._idle)
            connection = self._idle.pop() if reused else self._server.connection()
            try:
                await self._server.revive(connection)
                with self._server.errors():
                    replies = await ask(connection, commands, _TIMEOUT)
            except ConnectionLostError as error:
                raise BackendUnavailableError(str(error)) from error
            except BackendUnavailableError:
                if reused:
                    continue
                raise
            if self._closed or len(self._idle) >= _IDLE:
                await connection.disconnect(nowait=True)
            else:
                self._idle.append(connection)
            with self._server.errors():
                if isinstance(replies[0], ResponseError):
                    raise replies[0]
            return replies
