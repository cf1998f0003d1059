"""The errors of this package, as one tree.

    BroadcasterError
    ├── NotConnectedError             used before `connect()` or outside the lifespan
    ├── UnsupportedError              this backend cannot do that; the message names what can
    ├── ChannelNameError              a channel name or a template value that is not allowed
    ├── SerializationError            data that does not fit the channel's type
    ├── MessageTooLargeError          more bytes than `max_message_size` or than the broker takes
    ├── PageError                     a page that cannot be: its limit, or both ids
    ├── HistoryLostError              the log no longer holds what was asked for
    ├── SlowSubscriberError           `overflow="close"` ended a subscriber
    ├── Unsubscribed                  `subscriber.get()` after the end of the stream
    └── BackendError                  the broker refused or failed
        ├── ConnectionLostError       it was lost before anything had left
        └── BackendUnavailableError   it is away, or the outcome is unknown (`maybe_published`)

No message of these errors ever shows the password of a URL.
"""

from collections.abc import Mapping
from typing import Literal

GapReason = Literal["slow", "reconnected", "expired", "reset"]


class BroadcasterError(Exception):
    """Base of every error that this package raises on purpose."""


class NotConnectedError(BroadcasterError):
    """The broadcaster is used while it is not connected."""


class UnsupportedError(BroadcasterError):
    """The backend lacks the capability that was asked for."""


class ChannelNameError(BroadcasterError, ValueError):
    """A channel name, or a value for a template's parameter, is not allowed."""


class SerializationError(BroadcasterError, ValueError):
    """A message does not fit the type of its channel, in either direction."""


class MessageTooLargeError(BroadcasterError, ValueError):
    """A message has more bytes than may be published."""


class PageError(BroadcasterError, ValueError):
    """A page was asked for with a limit out of bounds, or both `before` and `after` an id."""


class HistoryLostError(BroadcasterError):
    """What was asked for is not, or not provably, in the log any more.

    `reason` is "expired" (trimmed away) or "reset" (the log itself is another one, or the id is
    not one of ours), `kept` the cursor behind which the log is whole, `missed` the number of
    messages that are gone where the backend knows it.
    """

    def __init__(
        self, reason: GapReason, *, kept: Mapping[str, int], missed: int | None = None
    ) -> None:
        what = "the log no longer reaches back so far"
        if reason == "reset":
            what = "the id is not of this log, or the log was reset"
        super().__init__(f"{what}; messages may be missing before what it still holds")
        self.reason: GapReason = reason
        self.kept = kept
        self.missed = missed


class SlowSubscriberError(BroadcasterError):
    """A subscriber with `overflow="close"` fell more than its buffer behind."""


class Unsubscribed(BroadcasterError):
    """The subscription has ended; no event will come any more."""


class BackendError(BroadcasterError):
    """The broker refused an operation or failed in it."""


class ConnectionLostError(BackendError):
    """The connection to the broker is gone and surely nothing had left on it."""


class BackendUnavailableError(BackendError):
    """The broker cannot be reached in time.

    `maybe_published` is true when the message may have reached the broker all the same: whoever
    publishes it again may publish it twice.
    """

    def __init__(self, message: str, *, maybe_published: bool = False) -> None:
        if maybe_published:
            message += "; the message may have been published"
        super().__init__(message)
        self.maybe_published = maybe_published


def outward(error: BroadcasterError) -> str:
    """What may be told to a client: nothing of where the broker is."""
    if not isinstance(error, BackendError):
        return str(error)
    if not isinstance(error, BackendUnavailableError):
        return "the broker refused it"
    outcome = str(error).rpartition("; ")[2]
    known = outcome.startswith(("nothing was ", "the message may have been "))
    return f"the broker is not reachable{'; ' + outcome if known else ''}"
