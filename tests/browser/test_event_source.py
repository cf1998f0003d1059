"""A bare `EventSource` whose server is killed again and again."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
from playwright.async_api import Browser, Page

from fastapi_broadcaster import Broadcaster
from servers import Redis
from tests.conformance.tools import until
from tests.web.clients import WAIT
from tests.web.processes import WebServer

RESTARTS = 10
NUMBERS = 1_000


def ticker(url: str) -> WebServer:
    return WebServer("ticker:app", environment={"BROADCASTER_URL": url})


async def open_page(browser: Browser, server: WebServer) -> Page:
    page = await browser.new_page()
    await page.goto(server.url)
    await page.wait_for_function("opened == 1")
    return page


async def seen(page: Page) -> list[Any]:
    """Numbers, and the reasons of gaps, as the page was given them."""
    found: list[Any] = await page.evaluate("seen")
    return found


class Speaker:
    """Publishes 1, 2, 3 ... past the web server, and never waits for it."""

    def __init__(self, broadcaster: Broadcaster) -> None:
        self.said = 0
        self.enough = asyncio.Event()
        self._channel = broadcaster.channel("numbers", int)

    async def run(self) -> None:
        while self.said < NUMBERS or not self.enough.is_set():
            await self._channel.publish(self.said + 1)
            self.said += 1
            await asyncio.sleep(0 if self.enough.is_set() else 0.02)

    async def says(self, more: int) -> None:
        wanted = self.said + more
        await until(lambda: self.said >= wanted)


async def test_everything_is_shown_once_and_in_order_over_ten_kills(browser: Browser) -> None:
    with Redis.private() as redis:
        url = redis.url.replace("redis:", "redis-stream:")
        with ticker(url) as server:
            page = await open_page(browser, server)
            async with Broadcaster(url) as broadcaster:
                speaker = Speaker(broadcaster)
                speaking = asyncio.create_task(speaker.run())
                unheard = 0
                for _ in range(RESTARTS):
                    await speaker.says(5)
                    server.kill()
                    before = speaker.said
                    await speaker.says(12)
                    await asyncio.to_thread(server.__enter__)
                    unheard += speaker.said - before
                    back = speaker.said + 1
                    await page.wait_for_function(f"seen.at(-1) >= {back}", timeout=WAIT * 1_000)
                speaker.enough.set()
                await speaking
            last = speaker.said
            await page.wait_for_function(f"seen.at(-1) >= {last}", timeout=WAIT * 1_000)
            assert await seen(page) == list(range(1, last + 1))
            assert await page.evaluate("opened") > RESTARTS
    assert last >= NUMBERS
    assert unheard >= 100


async def test_with_memory_each_restart_is_a_gap(browser: Browser) -> None:
    """Its log goes with the process: what is shown has a gap at each place where one went."""
    expected: list[Any] = []
    with ticker("memory://") as server:
        page = await open_page(browser, server)
        async with httpx2.AsyncClient(timeout=WAIT) as client:
            for turn in range(4):
                if turn:
                    server.kill()
                    await asyncio.to_thread(server.__enter__)
                    await page.wait_for_function(f"opened == {turn + 1}", timeout=WAIT * 1_000)
                    expected.append("reset")
                for number in range(turn * 10, turn * 10 + 10):
                    (await client.post(f"{server.url}/numbers/{number}")).raise_for_status()
                    expected.append(number)
                wanted = len(expected)
                await page.wait_for_function(f"seen.length >= {wanted}", timeout=WAIT * 1_000)
        assert await seen(page) == expected
