"""Who in this process hears what. Synchronous: nothing in here ever awaits."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from fastapi_broadcaster import _patterns
from fastapi_broadcaster._inbox import Inbox
from fastapi_broadcaster._targets import Target
from fastapi_broadcaster.deliveries import Delivery, Format
from fastapi_broadcaster.messages import Cursor, Gap, Message, behind
from fastapi_broadcaster.subscribers import Subscriber

AnySubscriber = Subscriber[object]
_Hearers = Collection[tuple[AnySubscriber, Inbox]]


class Entry:
    """One channel or pattern that somebody here hears, or is about to."""

    __slots__ = ("cursor", "idle", "is_pattern", "name", "ready", "subscribers", "users")

    def __init__(self, name: str, is_pattern: bool) -> None:
        self.name = name
        self.is_pattern = is_pattern
        self.users = 0  # subscribers, and those who wait to become one
        self.subscribers: dict[AnySubscriber, Inbox] = {}
        self.cursor: Cursor = {}  # behind the last message dispatched
        self.ready = asyncio.get_running_loop().create_future()
        self.idle: asyncio.TimerHandle | None = None

    async def wait_ready(self) -> None:
        """Wait until the broker sends what is published, on a connection that still stands."""
        while not self.ready.done():
            await asyncio.shield(self.ready)
        self.ready.result()

    def refuse(self, error: Exception) -> None:
        """Tell whoever waits that it will not come to pass."""
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()  # seen, also when nobody waits


class Hub:
    """Hands every batch of the listener to the subscribers that it is for.

    `wanted_changed` is called with each entry that comes or goes: the reconciler does the rest.
    An entry outlives its last user by `linger` seconds.
    """

    def __init__(
        self,
        *,
        linger: float,
        format: Format | None,
        tags_patterns: bool,
        wanted_changed: Callable[[Entry], None],
    ) -> None:
        self.channels: dict[str, Entry] = {}
        self.patterns: dict[str, Entry] = {}
        self.subscribers: dict[AnySubscriber, tuple[Entry, ...]] = {}
        self._leaving: list[asyncio.Future[None]] = []
        self._linger = linger
        self._format = format
        self._tags_patterns = tags_patterns
        self._wanted_changed = wanted_changed

    def entries(self) -> Iterator[Entry]:
        yield from self.channels.values()
        yield from self.patterns.values()

    # -- coming and going -------------------------------------------------------------------

    def acquire(self, targets: Iterable[Target]) -> tuple[Entry, ...]:
        """Want these targets; whoever acquires must `release`, whatever happens."""
        entries = tuple(self._entry(target) for target in targets)
        for entry in entries:
            entry.users += 1
            if entry.idle is not None:
                entry.idle.cancel()
                entry.idle = None
        return entries

    def _entry(self, target: Target) -> Entry:
        table = self.patterns if target.is_pattern else self.channels
        entry = table.get(target.name)
        if entry is None:
            entry = table[target.name] = Entry(target.name, target.is_pattern)
            self._wanted_changed(entry)
        return entry

    def join(self, subscriber: AnySubscriber, entries: tuple[Entry, ...]) -> None:
        """Let a subscriber hear entries that are ready, from where each of them stands."""
        self.subscribers[subscriber] = entries
        for entry in entries:
            entry.subscribers[subscriber] = subscriber.inbox
            if entry.cursor:
                subscriber.targets.cursors[entry.name] = entry.cursor
        subscriber.inbox.live = True

    def move(self, guest: AnySubscriber, subscriber: AnySubscriber) -> None:
        """Let a subscriber hear what another one hears, in its place."""
        entries = self.subscribers.pop(guest)
        self.subscribers[subscriber] += entries
        for entry in entries:
            del entry.subscribers[guest]
            entry.subscribers[subscriber] = subscriber.inbox

    def leave(self, subscriber: AnySubscriber, name: str) -> None:
        """Let a subscriber hear one name no more."""
        entries = self.subscribers[subscriber]
        self.subscribers[subscriber] = tuple(entry for entry in entries if entry.name != name)
        for entry in entries:
            if entry.name == name:
                del entry.subscribers[subscriber]
                self._let_go(entry)

    def release(self, entries: Iterable[Entry], subscriber: AnySubscriber | None = None) -> None:
        """Undo `acquire`, and `join` if a subscriber is given."""
        if subscriber is not None:
            self.subscribers.pop(subscriber, None)
            self._tell_leaving()
        for entry in entries:
            if subscriber is not None:
                entry.subscribers.pop(subscriber, None)
            self._let_go(entry)

    def _let_go(self, entry: Entry) -> None:
        entry.users -= 1
        if entry.users == 0:
            loop = asyncio.get_running_loop()
            entry.idle = loop.call_later(self._linger, self._forget, entry)

    def _forget(self, entry: Entry) -> None:
        table = self.patterns if entry.is_pattern else self.channels
        if entry.users == 0 and table.get(entry.name) is entry:
            del table[entry.name]
            self._wanted_changed(entry)

    def lost(self) -> None:
        """The connection is gone: newcomers wait until every entry is live again."""
        for entry in self.entries():
            if entry.ready.done():
                entry.ready = asyncio.get_running_loop().create_future()

    def when_empty(self, gone: "asyncio.Future[None]") -> None:
        """Resolve the future once there is no subscriber any more."""
        self._leaving.append(gone)
        self._tell_leaving()

    def _tell_leaving(self) -> None:
        if not self.subscribers:
            for gone in self._leaving:
                if not gone.done():
                    gone.set_result(None)
            self._leaving.clear()

    def end(self, waiting: Exception, *, draining: bool = False) -> None:
        """End every stream at once; those who wait to become one get the error."""
        for entry in self.entries():
            entry.refuse(waiting)
        for subscriber in list(self.subscribers):
            subscriber.inbox.end(draining=draining)

    def close(self, waiting: Exception) -> None:
        """End every stream and forget every entry."""
        self.end(waiting)
        for entry in self.entries():
            if entry.idle is not None:
                entry.idle.cancel()
        self.channels.clear()
        self.patterns.clear()

    # -- the way of a message ---------------------------------------------------------------

    def dispatch(self, batch: Sequence[Message | Gap]) -> None:
        """Offer a batch to all that hear it, then let each of them go on, once."""
        touched: list[AnySubscriber] = []
        for run in _runs(batch):
            if isinstance(run, Gap):
                self._tell(run, touched)
            else:
                self._offer(run, touched)
        for subscriber in touched:
            subscriber.flush()

    def _tell(self, gap: Gap, touched: list[AnySubscriber]) -> None:
        for entry in (self.channels.get(gap.channel), self.patterns.get(gap.channel)):
            if entry is not None and gap.reason == "reset":
                entry.cursor = {}  # positions of another log say nothing about this one
            for subscriber in entry.subscribers if entry is not None else ():
                if subscriber.inbox.tell(gap):
                    touched.append(subscriber)

    def _offer(self, run: Sequence[Message], touched: list[AnySubscriber]) -> None:
        entry, hearers = self._hearers(run[0])
        if not hearers:  # the cursor moves all the same: somebody may come while the entry lingers
            for message in run:
                _advance(entry, message)
            return
        format = self._format
        deliveries = [Delivery(message, _advance(entry, message), format) for message in run]
        for subscriber, inbox in hearers:
            if inbox.offer(deliveries):
                touched.append(subscriber)

    def _hearers(self, message: Message) -> tuple[Entry | None, _Hearers]:
        """Who hears a message, and the entry whose cursor it moves."""
        if message.pattern is not None or self._tags_patterns:
            return self._tagged_hearers(message)
        entry = self.channels.get(message.channel)
        hearers = entry.subscribers if entry is not None else {}
        if self.patterns:
            hearers = dict(hearers)
            for pattern, other in self.patterns.items():
                if other.subscribers and _patterns.matches(pattern, message.channel):
                    hearers.update(other.subscribers)
        return entry, hearers.items()

    def _tagged_hearers(self, message: Message) -> tuple[Entry | None, _Hearers]:
        """A broker that matches patterns sends a message once per subscription of this process."""
        table = self.channels if message.pattern is None else self.patterns
        entry = table.get(message.channel if message.pattern is None else message.pattern)
        if entry is None:
            return None, ()
        return entry, [
            (subscriber, inbox)
            for subscriber, inbox in entry.subscribers.items()
            if subscriber.targets.takes(message)
        ]


def _runs(batch: Iterable[Message | Gap]) -> Iterator[Sequence[Message] | Gap]:
    """Gaps, and between them messages of one channel that stand together, all in their order."""
    run: list[Message] = []
    for item in batch:
        if isinstance(item, Gap):
            if run:
                yield run
                run = []
            yield item
        elif run and (item.channel != run[0].channel or item.pattern != run[0].pattern):
            yield run
            run = [item]
        else:
            run.append(item)
    if run:
        yield run


def _advance(entry: Entry | None, message: Message) -> Cursor:
    """Where the channel stands behind this message."""
    if message.position is None:
        return {}
    source, key = message.position
    cursor: Cursor = {source: key}
    if entry is not None and not entry.is_pattern:
        if len(entry.cursor) > 1 or (entry.cursor and source not in entry.cursor):
            cursor = behind(message.position, entry.cursor)
        entry.cursor = cursor
    return cursor
