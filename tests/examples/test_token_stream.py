from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from servers import Redis
from tests.examples.conftest import Serve
from tests.web.clients import Frame, open_events, post
from tests.web.processes import WebServer

WORDS = ["You", "asked:", "Why?", "Nobody", "knows,", "but", "it", "is", "a", "good", "question."]


@pytest.fixture
def app(serve: Serve) -> WebServer:
    return serve("token_stream")


async def ask(app: WebServer, question: str = "Why?") -> str:
    answer = await post(f"{app.url}/answers", {"question": question})
    assert answer.status_code == 202
    return f"{app.url}/answers/{answer.json()['answer']}/tokens"


def words(frames: list[Frame]) -> list[str]:
    tokens = [frame.json for frame in frames if frame.data and frame.event is None]
    return [token["text"].strip() for token in tokens if not token["done"]]


async def test_an_answer_streams_and_ends(app: WebServer) -> None:
    async with open_events(await ask(app)) as stream:
        frames = await stream.rest()
    assert words(frames) == WORDS
    ends = [frame for frame in frames if frame.event == "end"]
    assert [(end.id, end.data) for end in ends] == [("~end", "")]


async def test_it_resumes_in_mid_answer(app: WebServer) -> None:
    url = await ask(app)
    async with open_events(url) as stream:
        heard = [await stream.event() for _ in range(3)]
    assert heard[-1].id is not None
    async with open_events(url, headers={"Last-Event-ID": heard[-1].id}) as stream:
        rest = await stream.rest()
    assert words(heard) == WORDS[:3]
    assert words(rest) == WORDS[3:]
    assert not any(frame.event == "gap" for frame in rest)


async def test_a_finished_answer_can_be_read_again(app: WebServer) -> None:
    url = await ask(app)
    async with open_events(url) as stream:
        await stream.rest()
    async with open_events(url) as stream:
        assert words(await stream.rest()) == WORDS


async def test_who_has_it_all_is_told_not_to_come_back(app: WebServer) -> None:
    async with open_events(await ask(app), headers={"Last-Event-ID": "~end"}) as stream:
        assert stream.status == 204


async def test_an_answer_that_a_shutdown_breaks_off_has_an_end(
    redis_server: Redis, source: Path
) -> None:
    """Who resumes at the next process does not wait for ever."""
    environment = {"BROADCASTER_URL": f"redis-stream://127.0.0.1:{redis_server.port}"}
    first, second = (
        WebServer("examples.token_stream:app", environment=environment, directory=source)
        for _ in range(2)
    )
    with first:
        url = await ask(first, "Why? " * 500)  # it takes half a minute
        async with open_events(url) as stream:
            heard = await stream.event()
            first.terminate()
        assert "Traceback" not in first.log
    with second:
        headers = {"Last-Event-ID": heard.id or ""}
        async with open_events(url.replace(first.url, second.url), headers=headers) as stream:
            rest = await stream.rest()
    assert words([heard]) == ["You"]
    assert words(rest)[:2] == ["asked:", "Why?"]
    last, end = [frame for frame in rest if frame.data is not None][-2:]
    assert (last.json["done"], last.json["failed"]) == (True, True)
    assert end.event == "end"


async def test_an_answer_is_named_by_a_uuid(app: WebServer) -> None:
    async with open_events(f"{app.url}/answers/{uuid4()}x/tokens") as stream:
        assert stream.status == 422
