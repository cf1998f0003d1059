"""What a channel's type means: on the wire, in a browser, in Python; refused; never shown."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgpack
import orjson
import pytest
from pydantic import BaseModel, Field, JsonValue, SecretStr, computed_field
from typing_extensions import TypedDict

from fastapi_broadcaster import Broadcaster, ChannelTemplate, SerializationError
from fastapi_broadcaster.serializers import Codec
from tests.backends import rows


class Named(BaseModel):
    user_name: str = Field(alias="userName")

    @computed_field
    def shout(self) -> str:
        return self.user_name.upper()


class Joined(BaseModel):
    kind: Literal["joined"] = "joined"
    user: str


class Left(BaseModel):
    kind: Literal["left"] = "left"
    at: datetime


class Point(TypedDict):
    x: int
    y: float


@dataclass
class Size:
    width: int
    unit: str = "px"


class Color(Enum):
    RED = "red"


Change = Annotated[Joined | Left, Field(discriminator="kind")]
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECRET = "hunter2"

# type, message, what the broker carries, what a browser gets
FORMS: list[tuple[Any, Any, bytes, bytes]] = [
    (str, "grüß\n\0", "grüß\n\0".encode(), '"grüß\\n\\u0000"'.encode()),
    (str, "", b"", b'""'),
    (bytes, b"\xff\0", b"\xff\0", b'"/wA="'),
    (
        Named,
        Named(userName="ann"),
        b'{"userName":"ann","shout":"ANN"}',
        b'{"userName":"ann","shout":"ANN"}',
    ),
    (Change, Joined(user="ann"), b'{"kind":"joined","user":"ann"}', b""),
    (Change, Left(at=NOON), b'{"kind":"left","at":"2026-01-01T12:00:00Z"}', b""),
    (Joined | Left, Left(at=NOON), b'{"kind":"left","at":"2026-01-01T12:00:00Z"}', b""),
    (Point, Point(x=1, y=0.5), b'{"x":1,"y":0.5}', b""),
    (Size, Size(3), b'{"width":3,"unit":"px"}', b""),
    (list[Joined], [Joined(user="a"), Joined(user="b")], b'[{"kind":"joined","user":"a"},', b""),
    (list[int], [], b"[]", b""),
    (dict[str, Decimal], {"a": Decimal("1.10")}, b'{"a":"1.10"}', b""),
    (int | None, None, b"null", b""),
    (Color, Color.RED, b'"red"', b""),
    (UUID, UUID(int=1), b'"00000000-0000-0000-0000-000000000001"', b""),
    (JsonValue, {"a": [1, None, "é"]}, '{"a":[1,null,"é"]}'.encode(), b""),
    (Any, [1.5, True], b"[1.5,true]", b""),
    (object, "text", b'"text"', b""),
]


@pytest.mark.parametrize(("type", "message", "wire", "browser"), FORMS)
def test_every_type_has_its_forms(type: Any, message: Any, wire: bytes, browser: bytes) -> None:
    codec: Codec[Any] = Codec(type)
    data = codec.dumps(message)
    assert data.startswith(wire)
    assert codec.loads(data) == message
    assert codec.to_json(message).startswith(browser or wire)
    assert b"\n" not in codec.to_json(message)


@rows(lambda case: case.id in ("memory", "redis"))
@pytest.mark.parametrize(("type", "message", "wire", "browser"), FORMS)
async def test_every_type_travels(
    broadcaster: Broadcaster, name: str, type: Any, message: Any, wire: bytes, browser: bytes
) -> None:
    channel = broadcaster.channel(ChannelTemplate[Any](name, type))
    async with channel.subscribe() as events:
        await channel.publish(message)
        assert (await events.get()).message == message


class MessagePack:
    """A serializer as a user would write one."""

    media_type = "application/msgpack"

    def dumps(self, message: Joined, /) -> bytes:
        return bytes(msgpack.packb(message.model_dump()) or b"")

    def loads(self, data: bytes, /) -> Joined:
        return Joined.model_validate(msgpack.unpackb(data))


@rows(lambda case: case.id in ("memory", "redis"))
async def test_a_serializer_of_ones_own(
    broadcaster: Broadcaster, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    template = ChannelTemplate(name, Joined, serializer=MessagePack())
    raw = broadcaster.channel(name, bytes)
    async with broadcaster.subscribe(pattern=template) as events, raw.subscribe() as wire:
        await broadcaster.channel(template).publish(Joined(user="ann"))
        assert (await wire.get()).message == b"\x82\xa4kind\xa6joined\xa4user\xa3ann"
        assert (await events.get()).message == Joined(user="ann")
        await raw.publish(b"\xc1 is never used")
        await broadcaster.channel(template).publish(Joined(user="bob"))
        assert (await events.get()).message.user == "bob"
        assert events.invalid == 1
    assert template.codec.to_json(Joined(user="a")) == b'{"kind":"joined","user":"a"}'
    assert len([line for line in caplog.messages if "invalid message" in line]) == 1


class Digits:
    """A serializer whose errors repeat the data, as `int` does."""

    media_type = "text/plain"

    def dumps(self, message: str, /) -> bytes:
        return b"%d" % int(message)

    def loads(self, data: bytes, /) -> str:
        return str(int(data))


def test_what_a_serializer_says_is_not_shown_either() -> None:
    codec = Codec(str, Digits())
    for attempt in (lambda: codec.dumps(SECRET), lambda: codec.loads(SECRET.encode())):
        with pytest.raises(SerializationError, match="ValueError in its serializer") as told:
            attempt()
        assert SECRET not in str(told.value)


class Account(BaseModel):
    number: int = Field(lt=1_000)
    password: str = Field(max_length=3)


def mutated() -> Account:
    account = Account(number=1, password="x")
    account.number = "one"  # type: ignore[assignment]
    return account


def half_made() -> Account:
    return Account.model_construct(number=1)


# type, what somebody publishes, what the error says
REFUSED: list[tuple[Any, Any, str]] = [
    (str, b"hunter2", "a str is wanted, not bytes"),
    (str, "hunter2 \ud800", "not valid Unicode"),
    (bytes, SECRET, "bytes are wanted, not str"),
    (Account, mutated(), "number"),
    (Account, half_made(), "password"),
    (Account, {"number": 1, "password": SECRET}, "password: String should have at most 3"),
    (Change, {"kind": "hunter2"}, "message: the tag is not one of 'joined', 'left'"),
    (Point, {"x": 1}, "y: Field required"),
    (Size, Size(width=SECRET), "cannot be written as its type: width"),  # type: ignore[arg-type]
    (list[Account], [Account(number=1, password="x"), SECRET], "1: Input should be"),
    (JsonValue, {1: {SECRET}}, "not a valid"),
    (Any, object(), "Type is not JSON serializable: object"),
]


@pytest.mark.parametrize(("type", "message", "says"), REFUSED)
async def test_what_does_not_fit_is_refused_at_publish_and_not_shown(
    type: Any, message: Any, says: str
) -> None:
    async with Broadcaster("memory://") as broadcaster:
        channel = broadcaster.channel(ChannelTemplate[Any]("a", type))
        with pytest.raises(SerializationError) as refused:
            await channel.publish(message)
        assert says in str(refused.value)
        assert SECRET not in str(refused.value)
        with pytest.raises(SerializationError):
            channel.codec.dumps(message)
        assert (await channel.page()).items == []


# type, what comes from the broker, what the error says
INVALID: list[tuple[Any, bytes, str]] = [
    (str, b"hunter2\xff", "not valid Unicode"),
    (Account, b'{"number":1,"password":"hunter2"}', "at most 3"),
    (Account, b"hunter2", "Invalid JSON"),
    (Account, b'{"number":"hunter2"}', "number"),
    (Account, b"", "Invalid JSON"),
    (Change, b'{"kind":"hunter2"}', "the tag is not"),
    (int, b'"hunter2"', "valid integer"),
    (JsonValue, b"{hunter2", "invalid JSON"),
    (Any, b"hunter2", "invalid JSON"),
]


@pytest.mark.parametrize(("type", "data", "says"), INVALID)
async def test_what_does_not_fit_is_skipped_and_not_shown(
    type: Any, data: bytes, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with Broadcaster("memory://") as broadcaster:
        name = f"invalid.{INVALID.index((type, data, says))}"
        channel = broadcaster.channel(ChannelTemplate[Any](name, type))
        strict = channel.subscribe(on_invalid="raise")
        async with strict as raising, channel.subscribe() as skipping:
            await broadcaster.channel(name, bytes).publish(data)
            with pytest.raises(SerializationError) as told:
                await raising.get()
            await channel.publish(good := GOOD[type])
            assert (await skipping.get()).message == good
            assert skipping.invalid == 1
    assert says in str(told.value)
    assert says in caplog.text
    assert SECRET not in str(told.value) + caplog.text


GOOD: dict[Any, Any] = {
    str: "good",
    Account: Account(number=2, password="y"),
    Change: Joined(user="ann"),
    int: 2,
    JsonValue: None,
    Any: None,
}


def test_a_browser_frame_is_read_as_the_type() -> None:
    assert Codec(str).from_frame("text") == "text"
    assert Codec(str).from_frame("täxt".encode()) == "täxt"
    assert Codec(bytes).from_frame(b"\xff") == b"\xff"
    assert Codec(bytes).from_frame("ä") == "ä".encode()
    assert Codec(Named).from_frame('{"userName":"ann"}') == Named(userName="ann")
    assert Codec(list[int]).from_frame(b"[1,2]") == [1, 2]
    for type, frame in ((str, b"\xff"), (Named, "{}"), (int, b"x"), (Any, "{")):
        with pytest.raises(SerializationError):
            Codec[Any](type).from_frame(frame)


def test_a_model_leaves_by_alias_and_without_what_the_type_does_not_know() -> None:
    class Public(BaseModel):
        name: str

    class Private(Public):
        token: SecretStr

    codec = Codec(Public)
    whole = Private(name="ann", token=SecretStr(SECRET))
    assert orjson.loads(codec.dumps(whole)) == {"name": "ann"}
    assert orjson.loads(codec.to_json(whole)) == {"name": "ann"}
