"""`postgres://`: LISTEN and NOTIFY. No log: an outage is told as a gap."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence

from fastapi_broadcaster.backends._postgres import Address, Sender, send
from fastapi_broadcaster.backends._postgres_listening import Listening, chunks
from fastapi_broadcaster.backends._postgres_wire import Joiner, Packed, listen_name, pieces
from fastapi_broadcaster.backends.base import Backend, Outcome
from fastapi_broadcaster.exceptions import ConnectionLostError
from fastapi_broadcaster.messages import Cursor, Gap, Message

_NOTIFY = """
    select pg_notify(c, d)
    from unnest($1::text[], $2::text[]) with ordinality as given(c, d, o) order by o"""


def from_url(url: str) -> "PostgresBackend":
    """Read a `postgres://` or `postgresql://` URL; the options are those of asyncpg's own URLs."""
    return PostgresBackend(url)


class PostgresBackend(Backend):
    """LISTEN and NOTIFY over two connections: one listens, one publishes.

    A channel is the NOTIFY channel of its name, so that `pg_notify` and triggers take part; one
    of more than 63 bytes is hashed. `listen_url` is where to listen when `url` leads to a pooler
    in transaction mode, which does not keep LISTEN. Time-outs are in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        listen_url: str | None = None,
        connect_timeout: float = 5.0,
        command_timeout: float = 5.0,
    ) -> None:
        self._address, self._listen_address = (
            Address(one, connect_timeout=connect_timeout, command_timeout=command_timeout)
            for one in (url, listen_url or url)
        )
        self._sender = Sender(self._address)
        self._listening: Listening[Message | Gap] | None = None
        self._joiner = Joiner()
        self._channels: dict[str, str] = {}  # by the name that is listened to
        self._live: set[str] = set()
        self._were_live: set[str] = set()

    def __str__(self) -> str:
        return str(self._address)

    async def connect(self) -> None:
        await self._sender.open()

    async def disconnect(self) -> None:
        await self._sender.close()
        self._live.clear()
        self._were_live.clear()

    async def reach(self) -> None:
        await self._sender.ready()

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        await self._sender.ready()
        return await send(pieces(messages), self._notify)

    async def _notify(self, piece: Sequence[Packed]) -> Sequence[None]:
        names = [packed.name for packed in piece for _ in packed.payloads]
        payloads = [payload for packed in piece for payload in packed.payloads]
        await self._sender.fetch(_NOTIFY, names, payloads, maybe_published=True)
        return [None] * len(piece)

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, Cursor]:
        listening = self._current()
        for names in chunks([name for name in channels if name not in self._live]):
            joining = {listen_name(name): name for name in names}
            self._channels.update(joining)
            await listening.listen(joining)
            if listening is not self._listening:
                raise ConnectionLostError(f"{self}: the connection was lost")
            for name in names:
                self._confirm(listening, name)
        return {}

    async def unsubscribe(self, channels: Collection[str]) -> None:
        self._were_live.difference_update(channels)
        listening = self._current()
        for names in chunks([name for name in channels if name in self._live]):
            leaving = [listen_name(name) for name in names]
            await listening.unlisten(leaving)
            self._live.difference_update(names)
            self._were_live.difference_update(names)
            for name in leaving:
                self._channels.pop(name, None)
                self._joiner.forget(name)

    def _current(self) -> Listening[Message | Gap]:
        if self._listening is None:
            raise ConnectionLostError(f"{self} is not connected")
        return self._listening

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        listening = await Listening[Message | Gap].open(self._listen_address, self._notified)
        self._listening = listening
        self._joiner = Joiner()
        try:
            yield ()
            async for batch in listening.batches():
                yield batch
        finally:
            self._listening = None
            await listening.close()
            self._channels.clear()
            self._were_live |= self._live
            self._live.clear()

    def _notified(self, name: str, payload: str) -> None:
        channel = self._channels.get(name)
        if channel is None or self._listening is None:
            return
        self._confirm(self._listening, channel)
        data = self._joiner.join(name, payload)
        if data is not None:
            self._listening.hear(Message(channel, data))

    def _confirm(self, listening: Listening[Message | Gap], channel: str) -> None:
        """A channel is live: its LISTEN was answered, or its first message came before that."""
        self._live.add(channel)
        if channel in self._were_live:
            self._were_live.discard(channel)
            listening.hear(Gap(channel, "reconnected"))
