"""Channels: templates of their names, one channel's face, and the options of a subscription."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Protocol, overload

from pydantic.fields import FieldInfo
from typing_extensions import TypeForm, TypeVar, Unpack

from fastapi_broadcaster import _names
from fastapi_broadcaster._options import Options, SubscribeOptions
from fastapi_broadcaster._targets import Target, target_of
from fastapi_broadcaster.backends.base import Backend
from fastapi_broadcaster.history import Page
from fastapi_broadcaster.messages import Receipt
from fastapi_broadcaster.serializers import TEXT, Codec, Serializer, type_name
from fastapi_broadcaster.subscribers import Subscriber

T = TypeVar("T", default=str)
T_co = TypeVar("T_co", covariant=True, default=str)


_STR: Any = str  # the default type; a TypeVar's default has no runtime form


class ChannelTemplate(Generic[T]):
    """The names and the type of a family of channels, shared by routes and workers.

    `ChannelTemplate("rooms.{room}", ChatMessage)`: each `{parameter}` fills a whole segment
    between the separators `.` `:` `/`, else `ValueError`. `serializer` replaces the one that the
    type chooses: raw UTF-8 for `str`, raw for `bytes`, JSON through pydantic for the rest.
    """

    @overload
    def __init__(
        self: "ChannelTemplate[str]", name: str, *, serializer: Serializer[str] | None = None
    ) -> None: ...
    @overload
    def __init__(
        self, name: str, type: TypeForm[T], *, serializer: Serializer[T] | None = None
    ) -> None: ...
    def __init__(
        self,
        name: str,
        type: TypeForm[T] = _STR,
        *,
        serializer: Serializer[Any] | None = None,
    ) -> None:
        self._parts = _names.split(_names.check_name(name))
        self.name = name
        self.type = type
        self.codec: Codec[T] = Codec(type, serializer, params=self.match)
        self.parameters: tuple[str, ...] = tuple(part for _, part in self._parts if part)
        self.bindings: Mapping[str, object] = {}
        self._regex = re.compile(
            "".join(
                re.escape(text)
                + (rf"(?P<{part}>[^.:/*?\[\]\s]{{1,{_names.VALUE_LENGTH}}})" * bool(part))
                for text, part in self._parts
            )
        )

    def __repr__(self) -> str:
        bound = "".join(f", {name}={value!r}" for name, value in self.bindings.items())
        return f"ChannelTemplate({self.name!r}, {type_name(self.type)}{bound})"

    @property
    def pattern(self) -> str:
        """The glob that hears every channel of the template, with the constants that are bound."""
        constants = self._constants()
        return "".join(
            text + (constants.get(part) or "*") * bool(part) for text, part in self._parts
        )

    @property
    def fixed(self) -> str:
        """An example of a name, for checks of what is fixed in it."""
        return "".join(text + "x" * bool(part) for text, part in self._parts)

    def bind(self, **bindings: object) -> "ChannelTemplate[T]":
        """Return a copy that takes parameters from elsewhere.

        `job_id=UUID` gives a parameter a type, `user_id=Depends(current_user_id)` and
        `user=Path(alias="sender")` a source, `symbol="BTC"` a constant value. Anything else, and
        a parameter that the template lacks, is a `TypeError`.
        """
        for name, value in bindings.items():
            if name not in self.parameters:
                raise TypeError(f"{self.name!r} has no parameter {name!r}")
            if not _is_binding(value):
                raise TypeError(
                    f"{name}={value!r}: bind a type, Depends(...), Path(...), Query(...) "
                    "or a constant str or int"
                )
            if is_constant(value):
                _names.check_value(name, value)
        copy: ChannelTemplate[T] = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, bindings={**self.bindings, **bindings})
        return copy

    def format(self, **values: object) -> str:
        """The name of one channel; constants that were bound are filled in.

        Raises `ChannelNameError` for a value that would step out of the template, `TypeError`
        for a parameter that is missing or unknown.
        """
        values = {**self._constants(), **values}
        if values.keys() != set(self.parameters):
            wanted = ", ".join(self.parameters) or "none"
            raise TypeError(f"{self.name!r} takes the parameters {wanted}, not {list(values)}")
        return "".join(
            text + (_names.check_value(part, values[part]) if part else "")
            for text, part in self._parts
        )

    def match(self, channel: str) -> Mapping[str, str] | None:
        """The values in a channel's name, None when it is not the template's."""
        found = self._regex.fullmatch(channel)
        if found is None or not self._constants().items() <= found.groupdict().items():
            return None
        return found.groupdict()

    def _constants(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.bindings.items() if is_constant(value)}


def is_constant(value: object) -> bool:
    """Whether a binding is a constant value."""
    return isinstance(value, str | int) and not isinstance(value, bool)


def _is_binding(value: object) -> bool:
    if isinstance(value, type) or is_constant(value) or isinstance(value, FieldInfo):
        return True
    return callable(getattr(value, "dependency", None)) or hasattr(value, "__metadata__")


class Host(Protocol):
    """What a channel needs of its broadcaster."""

    @property
    def backend(self) -> Backend: ...

    async def publish_to(
        self, channel: "Channel[Any]", message: Any, connection: object
    ) -> Receipt: ...

    def publish_to_sync(self, channel: "Channel[Any]", message: Any) -> Receipt: ...

    async def page_of(
        self, channel: "Channel[T]", *, limit: int, before: str | None, after: str | None
    ) -> Page[T]: ...

    def check_name(self, name: str) -> str: ...

    def check_options(self, targets: tuple[Target, ...], options: Options) -> None: ...

    async def open(
        self, targets: tuple[Target, ...], options: Options
    ) -> tuple[Subscriber[Any], Callable[[], None]]: ...


class Channel(Generic[T]):
    """One channel of a broadcaster, with its type; made by `Depends(channel(...))` and
    `broadcaster.channel(...)`."""

    def __init__(self, host: Host, name: str, codec: Codec[T]) -> None:
        self.name = host.check_name(name)
        self.codec = codec
        self._host = host

    @property
    def backend(self) -> Backend:
        """That of its broadcaster."""
        return self._host.backend

    def __repr__(self) -> str:
        return f"Channel({self.name!r}, {type_name(self.codec.type)})"

    async def publish(self, message: T, *, connection: object | None = None) -> Receipt:
        """Validate and publish one message; returns when the broker has accepted it.

        Raises `SerializationError`, `MessageTooLargeError`, and `BackendUnavailableError` when
        the broker cannot be reached in time. Does not promise that anybody listens.

        `connection=`, on `postgres-stream://`, publishes inside your own transaction, if and when
        it commits: an asyncpg or `psycopg.AsyncConnection` connection, or an SQLAlchemy
        AsyncConnection or AsyncSession. The receipt then has no id, your driver's errors reach
        you, and other backends raise `UnsupportedError`.
        """
        return await self._host.publish_to(self, message, connection)

    def publish_sync(self, message: T) -> Receipt:
        """As `publish`, for `def` handlers, threads and scripts.

        Blocks its thread; on the event loop's own thread it is a `RuntimeError`.
        """
        return self._host.publish_to_sync(self, message)

    def subscribe(self, **options: Unpack[SubscribeOptions]) -> "Subscription[T]":
        """Subscribe to this channel; the options are those of `Broadcaster.subscribe`."""
        return Subscription(self._host, (Target(self.name, self.codec),), Options.of(options))

    async def page(
        self, *, limit: int = 100, before: str | None = None, after: str | None = None
    ) -> Page[T]:
        """Read a page of at most `limit` (1 to 1,000) events of the log, oldest first.

        The newest ones, or those `before` or `after` an id. Raises `HistoryLostError` for an id
        that is not of this log or no longer in it, `UnsupportedError` without a log, `PageError`
        for a limit out of bounds and for both ids.
        """
        return await self._host.page_of(self, limit=limit, before=before, after=after)


class Subscription(Generic[T]):
    """`async with` it to get a live `Subscriber`; leaving it unsubscribes."""

    def __init__(self, host: Host, targets: tuple[Target, ...], options: Options) -> None:
        self._host = host
        self._targets = targets
        self._close: Callable[[], None] | None = None
        self.options = options
        host.check_options(targets, options)

    async def __aenter__(self) -> Subscriber[T]:
        if self._close is not None:
            raise RuntimeError("this subscription is open already")
        subscriber, self._close = await self._host.open(self._targets, self.options)
        return subscriber

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._close is not None:
            self._close()
            self._close = None


def targets_of(
    host: Host,
    channel: "str | Channel[Any] | Sequence[str | Channel[Any]] | None",
    pattern: ChannelTemplate[Any] | str | None,
) -> tuple[Target, ...]:
    """Read what `subscribe` was given: channels, or one pattern."""
    if pattern is not None:
        if channel is not None:
            raise TypeError("subscribe to a channel or to a pattern, not to both")
        if isinstance(pattern, ChannelTemplate):
            return (Target(pattern.pattern, pattern.codec, is_pattern=True),)
        return (Target(_names.check_name(pattern), TEXT, is_pattern=True),)
    if channel is None:
        raise TypeError("subscribe() wants a channel or pattern=")
    chosen: Iterable[Any] = [channel]
    if isinstance(channel, Iterable) and not isinstance(channel, str | bytes):
        chosen = list(channel)
    for one in chosen:
        if isinstance(one, ChannelTemplate):
            raise TypeError(
                f"{one.name!r} is a template: subscribe to broadcaster.channel(template, ...), or "
                "to pattern=template, which hears all of its channels"
            )
    channels: list[Channel[Any]] = [
        one if isinstance(one, Channel) else Channel(host, one, TEXT) for one in chosen
    ]
    if not channels:
        raise ValueError("subscribe() wants at least one channel")
    return tuple({one.name: target_of(one, host.backend) for one in channels}.values())
