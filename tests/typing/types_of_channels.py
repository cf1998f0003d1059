"""Whatever pydantic can validate is a type of channel, and a custom serializer has its type."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, assert_type

from pydantic import BaseModel, Field, JsonValue
from typing_extensions import TypedDict

from fastapi_broadcaster import Backend, BroadcastBackend, Broadcaster, ChannelTemplate, Serializer


class Joined(BaseModel):
    kind: Literal["joined"] = "joined"
    user: str


class Left(BaseModel):
    kind: Literal["left"] = "left"
    user: str


class Point(TypedDict):
    x: int


@dataclass
class Size:
    width: int


Change = Annotated[Joined | Left, Field(discriminator="kind")]

assert_type(ChannelTemplate("a", Joined | Left), ChannelTemplate[Joined | Left])
assert_type(ChannelTemplate[Joined | Left]("a", Change), ChannelTemplate[Joined | Left])
assert_type(ChannelTemplate("a", Point), ChannelTemplate[Point])
assert_type(ChannelTemplate("a", Size), ChannelTemplate[Size])
assert_type(ChannelTemplate("a", bytes), ChannelTemplate[bytes])
assert_type(ChannelTemplate("a", list[Joined]), ChannelTemplate[list[Joined]])
assert_type(ChannelTemplate("a", int | None), ChannelTemplate[int | None])
assert_type(ChannelTemplate("a", Any), ChannelTemplate[Any])

json: ChannelTemplate[JsonValue] = ChannelTemplate("a", JsonValue)


class Numbers:
    media_type = "text/plain"

    def dumps(self, message: int, /) -> bytes:
        return str(message).encode()

    def loads(self, data: bytes, /) -> int:
        return int(data)


serializer: Serializer[int] = Numbers()
assert_type(ChannelTemplate("a", int, serializer=Numbers()), ChannelTemplate[int])


def backends(ours: Backend, theirs: BroadcastBackend) -> None:
    assert_type(Broadcaster(backend=ours), Broadcaster)
    assert_type(Broadcaster(backend=theirs), Broadcaster)


async def events(broadcaster: Broadcaster) -> None:
    async with broadcaster.channel("changes", Joined | Left).subscribe() as changes:
        match (await changes.get()).message:
            case Joined() as joined:
                assert_type(joined.user, str)
            case Left() as left:
                assert_type(left.kind, Literal["left"])
