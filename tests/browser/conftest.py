from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from playwright.async_api import Browser, BrowserContext, async_playwright

from servers import Redis
from tests.web.processes import WebServer

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Debian's Chromium; at the end no page may have met an error in its script."""
    chromium = shutil.which("chromium")
    assert chromium is not None, "missing: chromium. On Debian: sudo apt-get install chromium"
    errors: list[str] = []

    def watch(context: BrowserContext) -> None:
        context.on("weberror", lambda error: errors.append(str(error.error)))

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        browser.on("context", watch)
        yield browser
        await browser.close()
    assert errors == []


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    with Redis.private() as server:
        yield server


def serve(url: str, *arguments: str) -> WebServer:
    """The chat, over the broker that the URL names; not started yet."""
    environment = {"BROADCASTER_URL": url}
    return WebServer(
        "examples.chat.app:app", arguments=arguments, environment=environment, directory=ROOT
    )


@pytest.fixture(scope="session")
def chat() -> Iterator[WebServer]:
    """The chat on memory, shared by all tests that do not break it."""
    with serve("memory://") as server:
        yield server


@pytest.fixture
def own_chat() -> Iterator[WebServer]:
    """The chat on memory, to be killed."""
    with serve("memory://") as server:
        yield server


@pytest.fixture
def room() -> str:
    return f"room-{uuid4().hex[:8]}"
