"""The same channel behind many kinds of middleware, one mounted app for each."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import anyio
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastapi_broadcaster import Broadcaster, ChannelTemplate, channel_router

broadcaster = Broadcaster("memory://", inline_sends=os.environ.get("INLINE_SENDS", "1") == "1")
app = FastAPI(lifespan=broadcaster.lifespan)
texts = ChannelTemplate("texts.{room}", str)
depth: ContextVar[int] = ContextVar("depth", default=0)
mark: ContextVar[str] = ContextVar("mark", default="nothing")
sends: dict[str, list[asyncio.Task[object] | None]] = {}
faults: list[str] = []
Sender = Callable[[Send, Message], Awaitable[None]]


class Around:
    """A pure ASGI middleware that puts something around `send`."""

    def __init__(self, app: ASGIApp, sender: Sender) -> None:
        self.app = app
        self.sender = sender

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        mark.set(scope["path"])

        async def wrapped(message: Message) -> None:
            await self.sender(send, message)

        await self.app(scope, receive, wrapped)


class Recorder:
    """Closest to the stream: in whose name does it send, and in which context?"""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = f"{scope['path']} {scope['client'][1]}"
        mark.set(key)

        async def recording(message: Message) -> None:
            task = asyncio.current_task()
            if b"message" in message.get("body", b"") or "message" in message.get("text", ""):
                sends.setdefault(key, []).append(task)
            if mark.get() != key:
                faults.append(f"{key} sends in the context of {mark.get()}")
            await send(message)
            if asyncio.current_task() is not task:
                faults.append(f"{key} is another task after its send")

        await self.app(scope, receive, recording)


async def with_token(send: Send, message: Message) -> None:
    token = depth.set(depth.get() + 1)
    try:
        await send(message)
    finally:
        depth.reset(token)
    if depth.get() != 0:
        faults.append("a context variable was not reset")


async def with_token_slowly(send: Send, message: Message) -> None:
    token = depth.set(depth.get() + 1)
    try:
        await asyncio.sleep(0.002)
        await send(message)
        await asyncio.sleep(0)
    finally:
        depth.reset(token)


async def with_asyncio_timeout(send: Send, message: Message) -> None:
    async with asyncio.timeout(30):
        await send(message)


async def with_anyio_timeout(send: Send, message: Message) -> None:
    with anyio.fail_after(30):
        await send(message)


async def after_asyncio_timeout(send: Send, message: Message) -> None:
    """The time-out fires inside the send, and nowhere else."""
    try:
        async with asyncio.timeout(0.005):
            await asyncio.sleep(30)
    except TimeoutError:
        await send(message)


async def after_anyio_timeout(send: Send, message: Message) -> None:
    with anyio.move_on_after(0.005):
        await anyio.sleep(30)
    await send(message)


async def after_no_time(send: Send, message: Message) -> None:
    """Due at once: the cancellation comes before the stream's task has taken over."""
    try:
        async with asyncio.timeout(0):
            await asyncio.sleep(30)
    except TimeoutError:
        await send(message)


async def after_no_anyio_time(send: Send, message: Message) -> None:
    with anyio.move_on_after(0):
        await anyio.sleep(30)
    await send(message)


async def with_task_group(send: Send, message: Message) -> None:
    async with asyncio.TaskGroup() as group:
        await group.create_task(asyncio.sleep(0))
        await send(message)


async def forward(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    response = await call_next(request)
    response.headers["x-forwarded-by"] = "base"
    return response


def mount(kind: str, *middleware: tuple[type, dict[str, object]]) -> None:
    inner = FastAPI()
    inner.include_router(channel_router(texts, "/rooms/{room}", name=f"{kind}_texts"))
    inner.add_middleware(Recorder)
    for one, options in middleware:
        inner.add_middleware(one, **options)
    app.mount(f"/{kind}", inner)


KINDS: dict[str, tuple[type, dict[str, object]]] = {
    "gzip": (GZipMiddleware, {"minimum_size": 1}),
    "cors": (CORSMiddleware, {"allow_origins": ["https://page.example"]}),
    "base": (BaseHTTPMiddleware, {"dispatch": forward}),
    **{
        sender.__name__: (Around, {"sender": sender})
        for sender in (
            with_token,
            with_token_slowly,
            with_asyncio_timeout,
            with_anyio_timeout,
            after_asyncio_timeout,
            after_anyio_timeout,
            after_no_time,
            after_no_anyio_time,
            with_task_group,
        )
    },
}
mount("none")
for kind in KINDS:
    mount(kind, KINDS[kind])
mount("all", *KINDS.values())


@app.get("/sends")
async def show_sends() -> dict[str, list[str]]:
    """For each stream the names of the distinct tasks that sent its events."""
    return {
        key: sorted({task.get_name() if task is not None else "none" for task in tasks})
        for key, tasks in sends.items()
    }


@app.get("/faults")
async def show_faults() -> list[str]:
    return faults
