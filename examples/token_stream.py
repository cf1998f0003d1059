"""Answers that stream word by word, end by themselves, and go on where a lost connection stopped.

BROADCASTER_URL=redis-stream://localhost:6379 uvicorn examples.token_stream:app
curl -d '{"question": "Why?"}' -H 'content-type: application/json' localhost:8000/answers
curl -N localhost:8000/answers/<answer>/tokens
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI
from pydantic import BaseModel

from fastapi_broadcaster import (
    Broadcaster,
    BroadcasterDep,
    Channel,
    ChannelTemplate,
    EventStreamResponse,
    Subscriber,
    subscriber,
)


class Question(BaseModel):
    question: str


class Asked(BaseModel):
    answer: UUID


class Token(BaseModel):
    text: str = ""
    done: bool = False
    """The last one."""
    failed: bool = False
    """The last one of an answer that broke off."""


broadcaster = Broadcaster(os.environ.get("BROADCASTER_URL", "memory://"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with broadcaster.lifespan(app):
        yield
        for task in thinking:
            task.cancel()
        await asyncio.gather(*thinking, return_exceptions=True)  # each says that it broke off


app = FastAPI(title="Answers", lifespan=lifespan)
answers = ChannelTemplate("answers.{answer}", Token).bind(answer=UUID)
Tokens = Annotated[Subscriber[Token], Depends(subscriber(answers, history="all"))]
thinking: set[asyncio.Task[None]] = set()


async def model(question: str) -> AsyncIterator[str]:
    """Stands for a language model."""
    for word in f"You asked: {question} Nobody knows, but it is a good question.".split():
        await asyncio.sleep(0.05)
        yield word + " "


async def think(question: str, answer: Channel[Token]) -> None:
    failed = True
    try:
        async for text in model(question):
            await answer.publish(Token(text=text))
        failed = False
    finally:
        await answer.publish(Token(done=True, failed=failed))


@app.post("/answers", status_code=202)
async def ask(question: Question, broadcaster: BroadcasterDep) -> Asked:
    answer = uuid4()
    task = asyncio.create_task(
        think(question.question, broadcaster.channel(answers, answer=answer))
    )
    thinking.add(task)
    task.add_done_callback(thinking.discard)
    return Asked(answer=answer)


@app.get("/answers/{answer}/tokens", response_class=EventStreamResponse)
async def listen(tokens: Tokens) -> EventStreamResponse:
    return EventStreamResponse(tokens, until=lambda token: token.done)
