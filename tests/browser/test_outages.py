"""What somebody sees while a server, or the broker behind it, is away."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Browser, Locator, Route, expect

from servers import Redis
from tests.browser.chat_page import ChatPage, join
from tests.browser.conftest import serve
from tests.browser.line import line_to
from tests.web.clients import WAIT
from tests.web.processes import WebServer


async def lines(page: ChatPage) -> list[str]:
    """The log from top to bottom: texts of messages, and "gap" for the note of a gap."""
    found: list[str] = await page.log.locator(".message, .note.gap").evaluate_all(
        """lines => lines.map(line => line.matches(".gap")
            ? "gap" : line.querySelector(".text").textContent)"""
    )
    return found


async def shows(locator: Locator, text: str) -> None:
    await expect(locator).to_be_visible()
    await expect(locator).to_contain_text(text)


async def test_a_page_goes_on_by_itself_after_kill_and_restart(
    browser: Browser, own_chat: WebServer, room: str
) -> None:
    ines = await join(browser, own_chat.url, room, "Ines")
    tomas = await join(browser, own_chat.url, room, "Tomás")
    await ines.say("before")
    for page in (ines, tomas):
        await page.sees("before")
    own_chat.kill()
    for page in (ines, tomas):
        await expect(page.state).to_have_text("Reconnecting")
    own_chat.__enter__()
    for page in (ines, tomas):
        await page.is_live()
    await ines.say("after")
    for page in (ines, tomas):
        await page.sees("before", "after")
        assert await lines(page) == ["before", "gap", "after"]


async def test_also_over_redis_with_two_workers(
    browser: Browser, redis_server: Redis, room: str
) -> None:
    with serve(redis_server.url, "--workers", "2") as server:
        ines = await join(browser, server.url, room, "Ines")
        await ines.say("before")
        await ines.sees("before")
        server.kill()
        await expect(ines.state).to_have_text("Reconnecting")
        server.__enter__()
        await ines.is_live()
        await ines.say("after")
        await ines.sees("before", "after")
        assert await lines(ines) == ["before", "gap", "after"]


async def test_a_killed_broker_is_a_gap_too(browser: Browser, room: str) -> None:
    with Redis.private() as redis, serve(redis.url) as server:
        ines = await join(browser, server.url, room, "Ines")
        await ines.say("before")
        await ines.sees("before")
        redis.kill()
        await ines.type("kept")
        await shows(ines.problem, "cannot reach its broker")
        await expect(ines.text).to_have_value("kept")
        redis.start()
        await expect(ines.gaps).to_have_count(1)
        await ines.is_live()
        await ines.say("after")
        await ines.sees("before", "after")
        assert await lines(ines) == ["before", "gap", "after"]


async def test_nothing_is_missing_when_only_the_connection_broke(
    browser: Browser, chat: WebServer, room: str
) -> None:
    async with line_to(chat.port) as (line, url):
        ines = await join(browser, chat.url, room, "Ines")
        tomas = await join(browser, url, room, "Tomás")
        await ines.say("one")
        await expect(tomas.text_of("one")).to_be_visible()
        line.cut()
        await expect(tomas.state).to_have_text("Reconnecting")
        await ines.say("two")
        line.mend()
        await tomas.is_live()
        await ines.say("three")
        await tomas.sees("one", "two", "three")
        assert await lines(tomas) == ["one", "two", "three"]


async def test_a_failed_message_is_kept_and_can_be_sent_again(
    browser: Browser, own_chat: WebServer, room: str
) -> None:
    ines = await join(browser, own_chat.url, room, "Ines")
    own_chat.kill()
    await ines.type("keep me")
    await shows(ines.problem, "Not sent: the server does not answer")
    await expect(ines.text).to_have_value("keep me")
    own_chat.__enter__()
    await ines.is_live()
    await ines.text.press("Enter")
    await ines.sees("keep me")
    await expect(ines.problem).to_be_hidden()
    await expect(ines.text).to_have_value("")


async def test_a_refused_message_is_kept(browser: Browser, chat: WebServer, room: str) -> None:
    ines = await join(browser, chat.url, room, "Ines")
    await ines.type("x" * 4_001)
    await shows(ines.problem, "at most 4000 characters")
    await expect(ines.text).to_have_value("x" * 4_001)
    await ines.page.route(f"**/rooms/{room}", lambda route: route.fulfill(status=413))
    await ines.type("too large for a proxy")
    await shows(ines.problem, "too large")
    await ines.page.unroute(f"**/rooms/{room}")
    await ines.say("fine")
    await ines.sees("fine")


@pytest.mark.parametrize("before", [[], ["before"]], ids=["quiet", "busy"])
async def test_it_comes_back_after_an_answer_that_is_no_stream(
    browser: Browser, own_chat: WebServer, room: str, before: list[str]
) -> None:
    """EventSource gives up on a proxy's 502; the page does not."""
    ines = await join(browser, own_chat.url, room, "Ines")
    for text in before:
        await ines.say(text)
        await ines.sees(text)
    refused = asyncio.Event()

    async def refuse(route: Route) -> None:
        await route.fulfill(status=502)
        refused.set()

    await ines.page.route("**/events*", refuse)
    own_chat.kill()
    await expect(ines.state).to_have_text("Reconnecting")
    own_chat.__enter__()
    await asyncio.wait_for(refused.wait(), WAIT)
    await ines.page.unroute("**/events*")
    await ines.is_live()
    await ines.say("after")
    await ines.sees(*before, "after")
    assert await lines(ines) == [*before, "gap", "after"]
