"""How the messages of a channel become bytes and come back."""

import base64
import re
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, Generic, Protocol, Union, cast, get_args, get_origin

import orjson
from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError, to_jsonable_python
from typing_extensions import TypeForm, TypeVar

from fastapi_broadcaster.exceptions import SerializationError

T = TypeVar("T")


class Serializer(Protocol[T]):
    """Turns messages into what the broker carries, and back.

    Both methods raise any `ValueError` or `TypeError` for data that does not fit; callers see it
    as a `SerializationError`.
    """

    @property
    def media_type(self) -> str: ...

    def dumps(self, message: T, /) -> bytes: ...

    def loads(self, data: bytes, /) -> T: ...


class TextSerializer:
    """`str` as raw UTF-8. A lone surrogate is refused."""

    media_type = "text/plain"

    def dumps(self, message: str, /) -> bytes:
        if not isinstance(message, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SerializationError(f"a str is wanted, not {type(message).__name__}")
        return message.encode()

    def loads(self, data: bytes, /) -> str:
        return data.decode()


class BytesSerializer:
    """`bytes` as they are."""

    media_type = "application/octet-stream"

    def dumps(self, message: bytes, /) -> bytes:
        if not isinstance(message, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SerializationError(f"bytes are wanted, not {type(message).__name__}")
        return message

    def loads(self, data: bytes, /) -> bytes:
        return data


class JSONSerializer:
    """Any JSON value, unvalidated, through orjson."""

    media_type = "application/json"

    def dumps(self, message: object, /) -> bytes:
        return orjson.dumps(message, default=to_jsonable_python)

    def loads(self, data: bytes, /) -> JsonValue:
        return cast(JsonValue, orjson.loads(data))


class ModelSerializer(Generic[T]):
    """JSON through a pydantic `TypeAdapter`, by alias, as FastAPI would send it.

    `dumps` refuses what `loads` could not read back, so that no published message is lost on
    every reader.
    """

    media_type = "application/json"

    def __init__(self, adapter: TypeAdapter[T]) -> None:
        self._adapter = adapter

    def dumps(self, message: T, /) -> bytes:
        value = self._adapter.validate_python(message)
        data = self._adapter.dump_json(value, by_alias=True, warnings="error")
        self._adapter.validate_json(data)
        return data

    def loads(self, data: bytes, /) -> T:
        return self._adapter.validate_json(data)


_LINES, _COMPLAINT = 5, 500  # lines and characters of a complaint; a client chooses its causes
_TEXT, _BYTES, _JSON = TextSerializer(), BytesSerializer(), JSONSerializer()
_UNTYPED: tuple[object, ...] = (Any, object, JsonValue)
Params = Callable[[str], Mapping[str, str] | None]


class Codec(Generic[T]):
    """One channel type in all its forms: broker bytes, browser JSON and Python value.

    Subscribers that share a codec share the decoded event and its frames. `params` maps a
    channel name to the values of its template, None for a name that is not the template's.
    """

    def __init__(
        self,
        type: TypeForm[T],
        serializer: Serializer[T] | None = None,
        *,
        params: Params | None = None,
    ) -> None:
        self.type: TypeForm[T] = type
        form: object = type
        self.raw = form is str or form is bytes
        self._adapter: TypeAdapter[T] | None = None
        if not self.raw and form not in _UNTYPED:
            self._adapter = TypeAdapter[T](type)
        self.serializer = serializer or self._default_serializer()
        self.params: Params = params or (lambda channel: {})

    def _default_serializer(self) -> Serializer[T]:
        if self._adapter is not None:
            return ModelSerializer(self._adapter)
        builtins: dict[object, object] = {str: _TEXT, bytes: _BYTES}
        return cast(Serializer[T], builtins.get(self.type, _JSON))

    def dumps(self, message: T) -> bytes:
        """Validate and encode for the broker; raises `SerializationError`."""
        try:
            return self.serializer.dumps(message)
        except SerializationError:
            raise
        except (ValueError, TypeError, PydanticSerializationError) as error:
            raise SerializationError(self._complaint(error)) from error

    def loads(self, data: bytes) -> T:
        """Decode and validate what came from the broker; raises `SerializationError`."""
        try:
            return self.serializer.loads(data)
        except SerializationError:
            raise
        except Exception as error:
            raise SerializationError(self._complaint(error)) from error

    def to_json(self, message: T) -> bytes:
        """The browser's form: JSON of the type, on one line, whatever the serializer.

        Raises `SerializationError` for what a serializer of its own carries and JSON cannot.
        """
        try:
            if self._adapter is not None:
                return self._adapter.dump_json(message, by_alias=True)
            if isinstance(message, bytes):
                return b'"' + base64.b64encode(message) + b'"'
            return orjson.dumps(message, default=to_jsonable_python)
        except (ValueError, TypeError, PydanticSerializationError) as error:
            raise SerializationError(self._complaint(error)) from error

    def from_frame(self, frame: str | bytes) -> T:
        """Read a browser's WebSocket frame: the bare text or bytes, else JSON of the type.

        Raises `SerializationError`.
        """
        try:
            return self._read_frame(frame)
        except (ValueError, TypeError) as error:
            raise SerializationError(self._complaint(error)) from error

    def _read_frame(self, frame: str | bytes) -> T:
        if self._adapter is not None:
            return self._adapter.validate_json(frame)
        if self.type is str:
            return cast(T, frame if isinstance(frame, str) else frame.decode())
        if self.type is bytes:
            return cast(T, frame if isinstance(frame, bytes) else frame.encode())
        return cast(T, orjson.loads(frame))

    def _complaint(self, error: Exception) -> str:
        """Say what is wrong, and never the data itself: it may be a secret."""
        if isinstance(error, ValidationError):
            lines = error.errors(include_url=False, include_input=False)
            found = "; ".join(
                f"{'.'.join(map(str, line['loc'])) or 'message'}: {_what(line)}"
                for line in lines[:_LINES]
            )
            if len(lines) > _LINES:
                found += f"; and {len(lines) - _LINES} more"
        elif isinstance(error, orjson.JSONDecodeError):
            found = f"invalid JSON: {error.msg} at position {error.pos}"
        elif isinstance(error, UnicodeError):
            found = "the text is not valid Unicode (UTF-8)"
        elif isinstance(error, PydanticSerializationError):
            fields = re.findall(r"\[field_name='(\w+)'", str(error))
            found = ": ".join(["it holds what cannot be written as its type", *fields[:1]])
        elif isinstance(error, orjson.JSONEncodeError):
            found = str(error)
        else:
            found = f"{type(error).__name__} in its serializer"
        return f"not a valid {type_name(self.type)}: {found[:_COMPLAINT]}"


def type_name(type: object) -> str:
    """What a type is called: a union by its members."""
    if get_origin(type) is Annotated:
        return type_name(get_args(type)[0])
    if get_origin(type) in (Union, UnionType):
        return " | ".join(type_name(member) for member in get_args(type))
    return getattr(type, "__name__", None) or str(type)


def _what(error: ErrorDetails) -> str:
    if error["type"] == "union_tag_invalid":  # pydantic's own words repeat the tag
        return f"the tag is not one of {error.get('ctx', {}).get('expected_tags')}"
    return error["msg"]


TEXT: Codec[str] = Codec(str)


def encode_text(message: str | bytes) -> bytes:
    """What a plain channel carries; raises `SerializationError` for anything else."""
    if isinstance(message, str):
        return TEXT.dumps(message)
    if isinstance(message, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
        return message
    raise SerializationError(
        f"a plain channel carries str or bytes, not {type(message).__name__}: "
        "declare a ChannelTemplate with that type"
    )
