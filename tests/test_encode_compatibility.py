"""What was written for encode/broadcaster runs here with one import changed."""

import asyncio
import importlib.metadata
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from broadcaster import Event as EncodeEvent
from broadcaster._backends.memory import MemoryBackend as EncodeMemoryBackend
from websockets.asyncio.client import ClientConnection, connect

from fastapi_broadcaster import (
    BackendUnavailableError,
    Broadcast,
    BroadcastBackend,
    Broadcaster,
    ChannelNameError,
    Event,
    Gap,
    Unsubscribed,
    UnsupportedError,
)
from fastapi_broadcaster.backends.kafka import KafkaBackend
from servers.base import free_port
from tests.backends import BackendCase, rows
from tests.brokers import Broker

PATIENCE = 30.0  # seconds

# The example is older than Starlette 1.0, which took away `on_startup` and the first argument of
# `TemplateResponse`. This gives both back, so that the example itself stays as it is.
STARLETTE_OF_THE_EXAMPLE = """
from contextlib import asynccontextmanager
import starlette.applications, starlette.templating

class Starlette(starlette.applications.Starlette):
    def __init__(self, routes, on_startup, on_shutdown):
        @asynccontextmanager
        async def lifespan(app):
            for start in on_startup:
                await start()
            yield
            for stop in on_shutdown:
                await stop()
        super().__init__(routes=routes, lifespan=lifespan)

class Jinja2Templates(starlette.templating.Jinja2Templates):
    def TemplateResponse(self, name, context):
        return super().TemplateResponse(context["request"], name, context)
"""
INTO_PLACE = """
starlette.applications.Starlette = Starlette
starlette.templating.Jinja2Templates = Jinja2Templates
import example
app = example.app
"""


def readme() -> str:
    return str(importlib.metadata.metadata("broadcaster").json["description"])


def example(url: str) -> str:
    """The README's example, its import changed and its URL replaced."""
    blocks = re.findall(r"```python\n(.*?)```", readme(), re.S)
    [source] = [str(block) for block in blocks if "chatroom_ws" in block]
    assert source.count("from broadcaster import") == source.count("redis://localhost:6379") == 1
    changed = source.replace("from broadcaster import", "from fastapi_broadcaster import")
    return changed.replace("redis://localhost:6379", url)


@asynccontextmanager
async def served(directory: Path, url: str) -> AsyncIterator[int]:
    """The example in a uvicorn process of its own; yields the port."""
    (directory / "example.py").write_text(example(url))
    (directory / "serve.py").write_text(STARLETTE_OF_THE_EXAMPLE + INTO_PLACE)
    (directory / "templates").mkdir()
    (directory / "templates" / "index.html").write_text("<p>{{ request.url.path }}</p>")
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "serve:app", "--port", str(port)),
        *("--ws", "websockets-sansio"),
        cwd=directory,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE):
            while b"running on" not in (line := await process.stderr.readline()):
                assert line, "it did not start"
        yield port
    finally:
        process.terminate()
        log = (await process.stderr.read()).decode()
        await process.wait()
    assert "Traceback" not in log, log


async def hears(client: ClientConnection, text: str) -> bool:
    """Whether a client hears a text within a moment."""
    try:
        async with asyncio.timeout(0.2):
            return await client.recv() == text
    except TimeoutError:
        return False


@rows(lambda case: case.id in ("memory", "redis"))
async def test_the_example_of_its_readme_runs(
    case: BackendCase, broker: Broker, tmp_path: Path
) -> None:
    url = broker.url if case.processes else "memory://"
    async with served(tmp_path, url) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        page = await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
        assert page.startswith(b"HTTP/1.1 200")
        assert page.endswith(b"<p>/</p>")
        async with (
            connect(f"ws://127.0.0.1:{port}/") as ann,
            connect(f"ws://127.0.0.1:{port}/") as bob,
            asyncio.timeout(PATIENCE),
        ):
            for client in (ann, bob):  # it subscribes after it has accepted
                await client.send("anybody there?")
                while not await hears(client, "anybody there?"):
                    await client.send("anybody there?")
            for number, client in enumerate((ann, bob, ann, bob)):
                await client.send(f"message {number}")
            for client in (ann, bob):
                texts = [text async for text in until(client, 4)]
                assert sorted(texts) == [f"message {number}" for number in range(4)]
                assert texts.index("message 0") < texts.index("message 2")


async def until(client: ClientConnection, count: int) -> AsyncIterator[str]:
    """So many of the numbered messages."""
    while count:
        if str(text := await client.recv()).startswith("message"):
            count -= 1
            yield str(text)


# -- the same names, the same behaviour ---------------------------------------------------------


def test_events_are_equal_as_theirs_are() -> None:
    assert Event("chatroom", "hello") == Event("chatroom", "hello", id="1")
    assert Event(channel="chatroom", message="hello") != Event("chatroom", "bye")
    assert Event("chatroom", "hello") != Event("lobby", "hello")
    ours, theirs = Event("chatroom", "hello"), EncodeEvent("chatroom", "hello")
    assert (ours.channel, ours.message) == (theirs.channel, theirs.message)


async def test_a_subscriber_is_read_with_get_until_it_is_unsubscribed() -> None:
    broadcast = Broadcast("memory://")
    await broadcast.connect()
    async with broadcast.subscribe("chatroom") as subscriber:
        await broadcast.publish("chatroom", "hello")
        assert await subscriber.get() == Event("chatroom", "hello")
        waiting = asyncio.create_task(subscriber.get())
        await asyncio.sleep(0)
        await broadcast.disconnect()
        with pytest.raises(Unsubscribed):
            await waiting
    assert [event async for event in subscriber] == []
    with pytest.raises(Unsubscribed):
        await subscriber.get()


class Room(str, Enum):  # noqa: UP042
    """Not a StrEnum: here `str()` and `format()` give the member's name."""

    LOBBY = "enum.lobby"
    HALL = "enum.hall"


@rows(lambda case: case.id in ("memory", "kafka"))
async def test_a_channel_may_be_a_member_of_an_enum(broadcaster: Broadcaster) -> None:
    async with broadcaster.subscribe(channel=Room.LOBBY) as subscriber:
        await subscriber.add(Room.HALL)
        for room in Room:
            await broadcaster.publish(channel=room, message="hello")
            async with asyncio.timeout(PATIENCE):
                event = await subscriber.get()
            assert type(event.channel) is str
            assert event == Event(room.value, "hello")


@pytest.mark.parametrize("channel", [5, 1.5, b"chatroom", ["chatroom", 5]], ids=repr)
async def test_what_is_no_name_is_refused_in_these_words(channel: Any) -> None:
    async with Broadcast("memory://") as broadcast:
        with pytest.raises(ChannelNameError, match="a channel name is a str, not "):
            broadcast.subscribe(channel)
        with pytest.raises(ChannelNameError, match="a channel name is a str, not "):
            await broadcast.publish(channel, "hello")


def test_kafka_takes_its_servers_as_urls_too() -> None:
    backend = KafkaBackend(["kafka://one:9092", "kafka://two", "kafka://[::1]"])
    assert str(backend) == str(KafkaBackend("one:9092,two,[::1]"))


class QueueBackend:
    """A backend as their users write one."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.unsubscribed = asyncio.Event()

    async def connect(self) -> None:
        self.calls.append("connect")
        self.queue: asyncio.Queue[Any] = asyncio.Queue()

    async def disconnect(self) -> None:
        self.calls.append("disconnect")

    async def subscribe(self, channel: str) -> None:
        self.calls.append(f"subscribe {channel}")

    async def unsubscribe(self, channel: str) -> None:
        self.calls.append(f"unsubscribe {channel}")
        self.unsubscribed.set()

    async def publish(self, channel: str, message: Any) -> None:
        if message == "refused":
            raise ValueError(message)
        await self.queue.put(EncodeEvent(channel, message))

    async def next_published(self) -> Any:
        event = await self.queue.get()
        if isinstance(event, Exception):
            raise event
        return event


class SubclassedBackend(QueueBackend, BroadcastBackend):
    """The same, by their base class."""


BACKENDS = [QueueBackend, SubclassedBackend, lambda: EncodeMemoryBackend("memory://")]


@pytest.fixture(params=BACKENDS, ids=["plain class", "subclass", "their own memory"])
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param()


async def test_a_backend_object_of_theirs_works(backend: Any) -> None:
    async with Broadcast(backend=backend) as broadcast:
        async with (
            broadcast.subscribe(channel="chatroom") as one,
            broadcast.subscribe(channel="chatroom") as two,
            broadcast.subscribe(["lobby", "chatroom"]) as three,
        ):
            for text in ("hello", "wörld", ""):
                await broadcast.publish(channel="chatroom", message=text)
            await broadcast.publish("lobby", "last")
            for subscriber in (one, two, three):
                texts = [(await subscriber.get()).message for _ in range(3)]
                assert texts == ["hello", "wörld", ""]
            assert await three.get() == Event("lobby", "last")
        assert not broadcast.has_history
        with pytest.raises(UnsupportedError):
            broadcast.subscribe("chatroom", history=1)


async def test_a_backend_object_carries_types_too(backend: Any) -> None:
    async with Broadcast(backend=backend) as broadcast:
        channel = broadcast.channel("numbers", dict[str, int])
        async with channel.subscribe() as numbers:
            await channel.publish({"a": 1})
            assert (await numbers.get()).message == {"a": 1}


@pytest.mark.parametrize("kind", [QueueBackend, SubclassedBackend])
async def test_a_backend_object_is_called_as_theirs_is(kind: type[QueueBackend]) -> None:
    backend = kind()
    broadcast = Broadcaster(backend=backend, linger=0)  # type: ignore[arg-type]
    async with broadcast:
        async with broadcast.subscribe("a"), broadcast.subscribe("a"):
            pass
        async with asyncio.timeout(PATIENCE):
            await backend.unsubscribed.wait()
    assert backend.calls == ["connect", "subscribe a", "unsubscribe a", "disconnect"]


async def test_a_backend_object_that_fails_is_connected_anew_and_a_gap_told() -> None:
    backend = SubclassedBackend()
    async with Broadcast(backend=backend) as broadcast, broadcast.subscribe("a") as subscriber:
        with pytest.raises(BackendUnavailableError, match="SubclassedBackend") as failed:
            await broadcast.publish("a", "refused")
        assert failed.value.maybe_published
        backend.queue.put_nowait(OSError("lost"))
        items = subscriber.stream()
        async with asyncio.timeout(PATIENCE):
            assert await anext(items) == Gap("a", "reconnected")
        await broadcast.publish("a", "again")
        assert await anext(items) == Event("a", "again")
    lives = [call for call in backend.calls if "connect" in call]
    assert lives == ["connect", "disconnect"] * 2  # many can connect only when disconnected


def test_what_is_no_backend_is_refused() -> None:
    with pytest.raises(TypeError, match="next_published"):
        Broadcast(backend=object())  # type: ignore[arg-type]
