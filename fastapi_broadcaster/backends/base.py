"""What a backend is. Reading this page and `memory.py` is enough to write another one."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Hashable, Mapping, Sequence
from datetime import datetime
from typing import ClassVar

from fastapi_broadcaster.exceptions import BackendError
from fastapi_broadcaster.messages import Cursor, Gap, Message, Position

Outcome = Position | BackendError | None


class Backend(ABC):
    """Moves messages between this process and a broker; knows no types, subscribers or web.

    One task calls `listen`, one `subscribe` and `unsubscribe`, and at most one batch of a `lane` is
    being published at a time; the three overlap freely. Nothing bound to an event loop may be made
    before `connect`, and a backend can be connected again after `disconnect`.
    """

    def __str__(self) -> str:
        """Name it in logs, errors and the health: by its URL, but without a password."""
        return type(self).__name__

    @abstractmethod
    async def connect(self) -> None:
        """Reach the broker once. Raises `BackendUnavailableError`, which names where it looked."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Give everything back; idempotent, and allowed in any state."""

    @abstractmethod
    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        """Hand a batch to the broker, in order; one outcome per message, in the same order.

        The messages are this call's to keep and to complete.

        An outcome is the position (None without a log), or the error of that one message. Raises
        `ConnectionLostError` when surely nothing has left: it is then called again, as it is with
        those messages of a batch that have this outcome. Raises
        `BackendUnavailableError(maybe_published=True)` when something may have left: that is
        never repeated. A cancelled call leaves the backend fit for the next one.
        """

    async def reach(self) -> None:  # noqa: B027  # nothing to do is right, and slower to give up
        """Have a connection to publish on, after one that failed; nothing leaves on it.

        May be cancelled: `publish` has only so much time for it. Raises `ConnectionLostError`.
        """

    def lane(self, channel: str) -> Hashable:
        """Channels of different lanes do not wait for one another when they are published to."""
        return None

    @abstractmethod
    async def subscribe(self, channels: Collection[str]) -> Mapping[str, Cursor]:
        """Make channels live: whatever is published after the return is heard by `listen`.

        Returns where each of them stands, `{}` for all without a log. Idempotent. Raises
        `ConnectionLostError` when this generation is over, any other error for bad names.
        """

    @abstractmethod
    async def unsubscribe(self, channels: Collection[str]) -> None:
        """Stop hearing these channels and no others; idempotent."""

    @abstractmethod
    def listen(self) -> AsyncIterator[Sequence[Message | Gap]]:
        """One generation of a connection, as an async generator of batches.

        It connects, first yields an empty batch, then whatever comes, and ends by raising
        `ConnectionLostError`; it is called again after a pause. All that is wanted is subscribed
        anew in each generation. A backend without a log yields `Gap(name, "reconnected")` for
        each name that was live in the generation before, at the place where it is live again; a
        backend with a log goes on from where it was, never skipping in silence.
        """

    def check_name(self, name: str) -> None:  # noqa: B027  # most brokers take any name
        """Raise `ChannelNameError` for a channel name that this broker cannot carry."""


class HistoryBackend(Backend):
    """A backend that keeps a log of each channel."""

    own_positions: bool = False
    """Whether each channel counts for itself, so that an id of another would be a place in it."""

    @abstractmethod
    async def history(
        self,
        channel: str,
        *,
        after: Cursor | None = None,
        before: Cursor | None = None,
        since: datetime | None = None,
        limit: int,
    ) -> list[Message]:
        """Read a page of at most `limit` messages, oldest first.

        `after`: the next ones behind that cursor; `since`: those from that time on; `before`, or
        nothing: the newest ones. Raises `HistoryLostError` unless it can prove that nothing
        behind `after` was lost. `{}` is the start of the log, wherever that is by now.

        A channel of several sources: `before` is in front of the message of the source that the
        cursor tells last, and behind those of the others; each message tells its `cursor`.
        """

    @abstractmethod
    def parse(self, id: str) -> Cursor:
        """Read an id; raises `HistoryLostError("reset")` for one that is not of this log."""

    @abstractmethod
    def format(self, cursor: Cursor) -> str:
        """Write a cursor as an id: printable ASCII that does not begin with `~`."""


class TransactionBackend(Backend):
    """A backend that publishes inside a transaction of the caller's database connection."""

    @abstractmethod
    async def publish_in(self, connection: object, message: Message) -> None:
        """Make the message part of the transaction: it is published if and when that commits.

        Raises `TypeError` for a connection that is not understood; the errors of the caller's own
        driver pass through.
        """


class PatternBackend(Backend):
    """A backend that hears all channels whose names match a Redis glob (`*`, `?`, `[ab]`)."""

    tags_patterns: ClassVar[bool] = False
    """True if the broker matches: it then sends a message once per subscription, with
    `Message.pattern` set. Else the hub matches the names."""

    @abstractmethod
    async def psubscribe(self, patterns: Collection[str]) -> None:
        """As `subscribe`, for patterns; channels that appear later are heard as well."""

    @abstractmethod
    async def punsubscribe(self, patterns: Collection[str]) -> None:
        """As `unsubscribe`, for patterns."""
