"""`amqp://`: a topic exchange and one exclusive queue per process. No log: an outage is a gap.

Another service takes part by publishing to the exchange, the channel as routing key, or by binding
a queue of its own.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence

from aiormq.exceptions import AMQPChannelError, ChannelAccessRefused, ChannelNotFoundEntity

from fastapi_broadcaster.backends._rabbitmq import NAME_BYTES, Link, Server, read_url, within
from fastapi_broadcaster.backends._rabbitmq_listening import Listening, Name, Standing, key_of
from fastapi_broadcaster.backends._rabbitmq_publishing import Fate, Letter, Publishing
from fastapi_broadcaster.backends.base import Outcome, PatternBackend
from fastapi_broadcaster.exceptions import ChannelNameError, ConnectionLostError
from fastapi_broadcaster.messages import Cursor, Gap, Message


def from_url(url: str) -> "RabbitMQBackend":
    """`amqp://user:password@host:5672/vhost?exchange=name`; the rest goes to the driver."""
    server, options = read_url(url, {"exchange": str})
    return RabbitMQBackend.of(server, **options)


class RabbitMQBackend(PatternBackend):
    """Publishes with confirms to a durable topic exchange, the channel as routing key.

    `url` is the driver's own (aiormq, under aio-pika). Names have at most 255 bytes of UTF-8. A
    message is accepted whether anybody listens or not.
    """

    def __init__(self, url: str, *, exchange: str = "fastapi_broadcaster") -> None:
        self._setup(Server(url), exchange)

    @classmethod
    def of(cls, server: Server, *, exchange: str = "fastapi_broadcaster") -> "RabbitMQBackend":
        """Make one for a server that a URL names."""
        backend = cls.__new__(cls)
        backend._setup(server, exchange)
        return backend

    def _setup(self, server: Server, exchange: str) -> None:
        self._server = server
        self._exchange = exchange
        self._publishing = Publishing(server, self._declare, self._refused)
        self._standing = Standing()
        self._listening: Listening | None = None

    def __str__(self) -> str:
        return str(self._server)

    def check_name(self, name: str) -> None:
        if len(name.encode()) > NAME_BYTES:
            raise ChannelNameError(
                f"{self}: a name has at most {NAME_BYTES} bytes of UTF-8, this one has "
                f"{len(name.encode())}: shorten it"
            )

    async def connect(self) -> None:
        await self._publishing.open()

    async def disconnect(self) -> None:
        await self._publishing.close()
        self._standing = Standing()

    async def _declare(self, link: Link) -> None:
        """Make the exchange; whoever may not must find it there."""
        channel = await link.channel()
        try:
            await within(
                channel.exchange_declare(self._exchange, exchange_type="topic", durable=True)
            )
        except ChannelAccessRefused:
            channel = await link.channel()
            await within(channel.exchange_declare(self._exchange, passive=True))
        await within(channel.close())

    def _refused(self, refusal: AMQPChannelError) -> None:
        """Without the exchange the bindings are gone, and nothing is heard any more."""
        if isinstance(refusal, ChannelNotFoundEntity) and self._listening is not None:
            self._listening.lose(refusal)

    # -- publishing -------------------------------------------------------------------------

    async def reach(self) -> None:
        await self._publishing.ready()

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        letters = [
            Letter(data=message.data, key=message.channel, exchange=self._exchange)
            for message in messages
        ]
        results = await self._publishing.send(letters)
        return [None if isinstance(result, Fate) else result for result in results]

    # -- listening --------------------------------------------------------------------------

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, Cursor]:
        await self._connected().bind([(name, False) for name in channels])
        return {}

    async def unsubscribe(self, channels: Collection[str]) -> None:
        await self._unbind([(name, False) for name in channels])

    async def psubscribe(self, patterns: Collection[str]) -> None:
        names = [(name, True) for name in patterns]
        for name in names:
            self.check_name(key_of(name))
        await self._connected().bind(names)

    async def punsubscribe(self, patterns: Collection[str]) -> None:
        await self._unbind([(name, True) for name in patterns])

    def _connected(self) -> Listening:
        if self._listening is None:
            raise ConnectionLostError(f"{self} is not connected")
        return self._listening

    async def _unbind(self, names: Collection[Name]) -> None:
        if self._listening is not None:
            await self._listening.unbind(names)
        else:
            self._standing.were_live.difference_update(names)

    async def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        link = await self._server.reopen()
        listening = Listening(link, self._exchange, self._standing, self._declare)
        try:
            await listening.open()
            self._listening = listening
            yield ()
            async for batch in listening.batches():
                yield batch
        finally:
            self._listening = None
            self._standing.lost()
            await listening.close()
