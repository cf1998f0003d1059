"""Notes on boards, texts and bytes: every form of stream that the web layer has."""

import os
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, WebSocket
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel

from fastapi_broadcaster import (
    Broadcaster,
    BroadcasterDep,
    Channel,
    ChannelTemplate,
    EventStreamResponse,
    Receipt,
    Subscriber,
    channel,
    relay,
    subscriber,
)

TIMEOUT = float(os.environ.get("BROKER_TIMEOUT", "5"))
broadcaster = Broadcaster(
    os.environ.get("BROADCASTER_URL", "memory://"),
    inline_sends=os.environ.get("INLINE_SENDS", "1") == "1",
    publish_timeout=TIMEOUT,
    subscribe_timeout=TIMEOUT,
    max_message_size=int(os.environ.get("MAX_MESSAGE_SIZE", "1048576")),
    linger=0.05,
)
app = FastAPI(lifespan=broadcaster.lifespan)
HISTORY = 2 if broadcaster.has_history else None


class Note(BaseModel):
    text: str
    done: bool = False


class Alert(BaseModel):
    level: int


notes = ChannelTemplate("notes.{board}", Note)
alerts = ChannelTemplate("alerts.{board}", Alert)
texts = ChannelTemplate("texts.{board}", str)
blobs = ChannelTemplate("blobs.{board}", bytes)
NoteChannel = Annotated[Channel[Note], Depends(channel(notes))]
AlertChannel = Annotated[Channel[Alert], Depends(channel(alerts))]
TextChannel = Annotated[Channel[str], Depends(channel(texts))]
BlobChannel = Annotated[Channel[bytes], Depends(channel(blobs))]
NoteEvents = Annotated[Subscriber[Note], Depends(subscriber(notes))]
TextEvents = Annotated[Subscriber[str], Depends(subscriber(texts))]


@app.post("/notes/{board}", status_code=202)
async def add_note(note: Note, target: NoteChannel) -> Receipt:
    return await target.publish(note)


@app.post("/raw/{board}", status_code=202)
async def add_raw(board: str, data: dict[str, object], broadcaster: BroadcasterDep) -> Receipt:
    """What another service may publish past our types."""
    import json

    return await broadcaster.publish(f"notes.{board}", json.dumps(data))


@app.post("/alerts/{board}", status_code=202)
async def add_alert(alert: Alert, target: AlertChannel) -> Receipt:
    return await target.publish(alert)


class Text(BaseModel):
    text: str


@app.post("/texts/{board}", status_code=202)
async def add_text(message: Text, target: TextChannel) -> Receipt:
    return await target.publish(message.text)


@app.post("/blobs/{board}", status_code=202)
async def add_blob(message: Text, target: BlobChannel) -> Receipt:
    return await target.publish(bytes.fromhex(message.text))


@app.post("/notes/{board}/many", status_code=202)
async def add_many(target: NoteChannel, count: int, size: int) -> None:
    """Publish `count` notes of `size` characters that begin with their number."""
    for number in range(count):
        await target.publish(Note(text=f"{number} ".ljust(size, "x")))


@app.get("/notes/{board}/events", response_class=EventStreamResponse)
async def follow(events: NoteEvents) -> EventStreamResponse:
    return EventStreamResponse(events)


@app.get("/notes/{board}/recent", response_class=EventStreamResponse)
async def recent(
    events: Annotated[Subscriber[Note], Depends(subscriber(notes, history=HISTORY))],
) -> EventStreamResponse:
    return EventStreamResponse(events)


@app.get("/notes/{board}/until-done", response_class=EventStreamResponse)
async def until_done(events: NoteEvents) -> EventStreamResponse:
    return EventStreamResponse(events, until=lambda note: note.done)


@app.get("/notes/{board}/named", response_class=EventStreamResponse)
async def named(events: NoteEvents) -> EventStreamResponse:
    return EventStreamResponse(events, event="note")


@app.get("/notes/{board}/pinged", response_class=EventStreamResponse)
async def pinged(events: NoteEvents) -> EventStreamResponse:
    return EventStreamResponse(events, ping=0.1)


@app.get("/notes/{board}/short", response_class=EventStreamResponse)
async def short(events: NoteEvents) -> EventStreamResponse:
    return EventStreamResponse(events, max_age=0.3)


@app.get("/notes/{board}/impatient", response_class=EventStreamResponse)
async def impatient(events: NoteEvents) -> EventStreamResponse:
    return EventStreamResponse(events, send_timeout=0.3)


@app.get("/notes/{board}/strict", response_class=EventStreamResponse)
async def strict(
    events: Annotated[
        Subscriber[Note], Depends(subscriber(notes, overflow="close", buffer_size=16))
    ],
) -> EventStreamResponse:
    return EventStreamResponse(events)


@app.get("/notes/{board}/lazy", response_class=EventStreamResponse)
async def lazy(target: NoteChannel) -> EventStreamResponse:
    return EventStreamResponse(target.subscribe(history=HISTORY))


@app.get("/notes/{board}/filtered", response_class=EventStreamResponse)
async def filtered(events: NoteEvents) -> EventStreamResponse:
    return EventStreamResponse(events.filter(lambda event: event.message.text != "secret"))


@app.get("/notes/{board}/closed", response_class=EventStreamResponse)
async def closed(target: NoteChannel) -> EventStreamResponse:
    async with target.subscribe() as events:
        pass
    try:
        return EventStreamResponse(events)
    except RuntimeError as error:
        return EventStreamResponse(target.subscribe(), headers={"x-refused": str(error)})


@app.get("/notes/{board}/both", response_class=EventStreamResponse)
async def both(
    events: Annotated[Subscriber[Note | Alert], Depends(subscriber(notes, alerts))],
) -> EventStreamResponse:
    return EventStreamResponse(events)


@app.get("/notes/{board}/fastapi", response_class=EventSourceResponse)
async def fastapi_form(events: NoteEvents) -> AsyncIterator[Note]:
    async for event in events:
        yield event.message


@app.get("/texts/{board}/events", response_class=EventStreamResponse)
async def follow_texts(events: TextEvents) -> EventStreamResponse:
    return EventStreamResponse(events)


@app.get("/blobs/{board}/events", response_class=EventStreamResponse)
async def follow_blobs(
    events: Annotated[Subscriber[bytes], Depends(subscriber(blobs))],
) -> EventStreamResponse:
    return EventStreamResponse(events)


@app.websocket("/notes/{board}/ws")
async def exchange(websocket: WebSocket, events: NoteEvents, target: NoteChannel) -> None:
    await relay(websocket, events, publish_to=target)


@app.websocket("/notes/{board}/listen")
async def listen(websocket: WebSocket, events: NoteEvents) -> None:
    await relay(websocket, events)


@app.websocket("/notes/{board}/envelope")
async def enveloped(websocket: WebSocket, events: NoteEvents, target: NoteChannel) -> None:
    await relay(websocket, events, publish_to=target, envelope=True)


@app.websocket("/notes/{board}/signed")
async def signed(websocket: WebSocket, events: NoteEvents, target: NoteChannel) -> None:
    async def sign(note: Note) -> None:
        await target.publish(Note(text=f"{note.text} (signed)", done=note.done))

    await relay(websocket, events, on_message=sign)


@app.websocket("/notes/{board}/failing")
async def failing(websocket: WebSocket, events: NoteEvents) -> None:
    async def fail(note: Note) -> None:
        errors = {"ValueError": ValueError, "OSError": OSError, "TimeoutError": TimeoutError}
        raise errors[note.text]("in on_message")

    await relay(websocket, events, on_message=fail)


@app.websocket("/notes/{board}/impatient-ws")
async def impatient_socket(websocket: WebSocket, events: NoteEvents) -> None:
    await relay(websocket, events, send_timeout=0.3)


@app.websocket("/notes/{board}/strict-ws")
async def strict_socket(
    websocket: WebSocket,
    events: Annotated[
        Subscriber[Note], Depends(subscriber(notes, overflow="close", buffer_size=16))
    ],
) -> None:
    await relay(websocket, events)


@app.websocket("/notes/{board}/allowed")
async def allowed(websocket: WebSocket, events: NoteEvents) -> None:
    await relay(websocket, events, allowed_origins=["https://friend.example"])


@app.websocket("/texts/{board}/ws")
async def exchange_texts(websocket: WebSocket, events: TextEvents, target: TextChannel) -> None:
    await relay(websocket, events, publish_to=target)


@app.websocket("/blobs/{board}/ws")
async def exchange_blobs(
    websocket: WebSocket,
    events: Annotated[Subscriber[bytes], Depends(subscriber(blobs))],
    target: BlobChannel,
) -> None:
    await relay(websocket, events, publish_to=target)


@app.post("/drain")
async def drain(broadcaster: BroadcasterDep) -> None:
    broadcaster.drain()


@app.get("/subscribers")
async def count(broadcaster: BroadcasterDep) -> int:
    return broadcaster.health().subscribers
