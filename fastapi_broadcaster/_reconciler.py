"""The only task that subscribes and unsubscribes: what is wanted against what is."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping

from fastapi_broadcaster._hub import Entry, Hub
from fastapi_broadcaster.backends.base import Backend, PatternBackend
from fastapi_broadcaster.exceptions import ConnectionLostError
from fastapi_broadcaster.messages import Cursor

logger = logging.getLogger("fastapi_broadcaster")


class _Kind:
    """Channels or patterns: the same work with other words."""

    def __init__(
        self,
        table: dict[str, Entry],
        subscribe: Callable[[Collection[str]], Awaitable[Mapping[str, Cursor] | None]],
        unsubscribe: Callable[[Collection[str]], Awaitable[None]],
    ) -> None:
        self.table = table
        self.subscribe = subscribe
        self.unsubscribe = unsubscribe
        self.actual: set[str] = set()
        self.stale: set[str] = set()  # may be live, or remembered from an earlier generation
        self.changed: set[str] = set()  # all that may be unwanted or missing is among these
        self.looked_at: set[str] = set()

    def look(self) -> None:
        """Turn to what has changed until now."""
        self.looked_at, self.changed = self.changed, set()

    def look_again(self) -> None:
        self.changed |= self.looked_at

    def unwanted(self) -> list[str]:
        gone = [name for name in self.looked_at if name not in self.table]
        return [name for name in gone if name in self.actual or name in self.stale]

    def missing(self) -> dict[str, Entry]:
        wanted = {name: self.table[name] for name in self.looked_at if name in self.table}
        return {name: entry for name, entry in wanted.items() if not entry.ready.done()}


class Reconciler:
    """Level-triggered: looks at all entries that have changed, after a loss at every one.

    `restored` is called when all that is wanted is live on the present connection.
    """

    def __init__(self, backend: Backend, *, restored: Callable[[], None]) -> None:
        self._backend = backend
        self._restored = restored
        self._dirty = asyncio.Event()
        self._generation = 0
        self._connected = False
        self._kinds: list[_Kind] = []

    def watch(self, hub: Hub) -> None:
        """Take the hub's tables as what is wanted."""
        backend = self._backend
        self._kinds = [_Kind(hub.channels, backend.subscribe, backend.unsubscribe)]
        if isinstance(backend, PatternBackend):
            self._kinds.append(_Kind(hub.patterns, backend.psubscribe, backend.punsubscribe))

    def wanted_changed(self, entry: Entry) -> None:
        """An entry has come or gone."""
        self._kinds[entry.is_pattern].changed.add(entry.name)
        self._dirty.set()

    def connected(self) -> None:
        """A new generation has begun: nothing is subscribed on it yet."""
        self._generation += 1
        self._connected = True
        self._dirty.set()

    def lost(self) -> None:
        """The generation is over; whatever was begun on it does not count."""
        self._generation += 1
        self._connected = False
        for kind in self._kinds:
            kind.stale |= kind.actual
            kind.actual.clear()
            kind.changed |= kind.stale | kind.table.keys()

    async def run(self) -> None:
        """Reconcile for ever."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if not self._connected:
                continue
            generation = self._generation
            try:
                for kind in self._kinds:
                    await self._settle_all(kind)
            except ConnectionLostError:
                if generation == self._generation:
                    await asyncio.sleep(0.05)  # the listener is about to notice
                    self._dirty.set()
                continue
            except Exception:
                logger.exception("%s: subscribing failed and is tried again", self._backend)
                await asyncio.sleep(0.5)
                self._dirty.set()
                continue
            if generation == self._generation:
                self._restored()  # newcomers since then wait for themselves

    async def _settle_all(self, kind: _Kind) -> None:
        kind.look()
        try:
            await self._unsubscribe(kind)
            await self._subscribe(kind)
        except BaseException:
            kind.look_again()
            raise

    async def _unsubscribe(self, kind: _Kind) -> None:
        names = kind.unwanted()
        if names:
            kind.actual.difference_update(names)
            kind.stale.difference_update(names)
            try:
                await kind.unsubscribe(names)
            except BaseException:
                kind.stale.update(names)  # the backend may remember them
                raise

    async def _subscribe(self, kind: _Kind) -> None:
        """Lane by lane, so that one that is lost keeps nobody out of the others."""
        lanes: dict[Hashable, dict[str, Entry]] = {}
        for name, entry in kind.missing().items():
            lanes.setdefault(self._backend.lane(name), {})[name] = entry
        lost: ConnectionLostError | None = None
        for entries in lanes.values():
            try:
                await self._subscribe_to(kind, entries)
            except ConnectionLostError as error:
                lost = error
        if lost is not None:
            raise lost

    async def _subscribe_to(self, kind: _Kind, entries: dict[str, Entry]) -> None:
        generation = self._generation
        kind.stale.update(entries)
        try:
            cursors = await kind.subscribe(list(entries))
        except ConnectionLostError:
            raise
        except Exception as error:
            if generation == self._generation:
                await self._one_by_one(kind, entries, error)
            return
        if generation == self._generation:
            for name in entries:
                self._settle(kind, name, entries[name], (cursors or {}).get(name))

    async def _one_by_one(self, kind: _Kind, entries: dict[str, Entry], error: Exception) -> None:
        """Something in the batch is refused: find out what, so that the others go on."""
        generation = self._generation
        for name, entry in entries.items():
            try:
                cursors = error if len(entries) == 1 else await kind.subscribe([name])
            except ConnectionLostError:
                raise
            except Exception as refusal:
                cursors = refusal
            if generation != self._generation:
                return
            if isinstance(cursors, Exception):
                self._refuse(kind, name, entry, cursors)
            else:
                self._settle(kind, name, entry, (cursors or {}).get(name))

    def _settle(self, kind: _Kind, name: str, entry: Entry, cursor: Cursor | None) -> None:
        kind.actual.add(name)
        kind.stale.discard(name)
        if kind.table.get(name) is not entry:
            kind.changed.add(name)  # it went, or was made anew, while we subscribed
            self._dirty.set()
        elif not entry.ready.done():
            if cursor and not entry.cursor:
                entry.cursor = cursor
            entry.ready.set_result(None)

    def _refuse(self, kind: _Kind, name: str, entry: Entry, error: Exception) -> None:
        """Tell whoever waits, and end whoever listened before: it would wait for ever."""
        logger.error("%s refused to subscribe %r: %s", self._backend, name, error)
        kind.stale.discard(name)
        if kind.table.get(name) is entry:
            del kind.table[name]
        entry.refuse(error)
        for subscriber in list(entry.subscribers):
            subscriber.inbox.end(error)
