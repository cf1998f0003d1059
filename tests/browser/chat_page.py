"""The chat's page as somebody sees it."""

from __future__ import annotations

from playwright.async_api import Browser, BrowserContext, Locator, Page, expect

from tests.web.clients import WAIT

expect.set_options(timeout=WAIT * 1_000)


class ChatPage:
    """One person's browser, in one room."""

    def __init__(self, page: Page, name: str, stream_pid: str) -> None:
        self.page = page
        self.name = name
        self.stream_pid = stream_pid
        """The server process that the page listens to."""
        self.text = page.get_by_role("textbox", name="Message", exact=True)
        self.state = page.get_by_role("status")
        self.problem = page.get_by_role("alert")
        self.log = page.get_by_role("log", name="Messages")
        self.messages = page.locator(".message")
        self.own = page.locator(".message.own")
        self.gaps = page.locator(".note.gap")

    async def type(self, text: str) -> None:
        await self.text.fill(text)
        await self.text.press("Enter")

    async def say(self, text: str) -> None:
        """Type a message and wait until the server has taken it."""
        await self.type(text)
        await expect(self.text).to_have_value("")

    def text_of(self, text: str) -> Locator:
        return self.messages.locator(".text").get_by_text(text, exact=True)

    async def sees(self, *texts: str) -> None:
        """Wait until these are the messages, in this order, and no other."""
        await expect(self.messages.locator(".text")).to_have_text(list(texts))

    async def is_live(self) -> None:
        await expect(self.state).to_have_text("Live")


async def open_page(context: BrowserContext, url: str, room: str) -> tuple[Page, str]:
    """Open a room; returns the page, and the process that answers its stream."""
    page = await context.new_page()
    page.set_default_timeout(WAIT * 1_000)
    async with page.expect_response(lambda answer: answer.url.endswith("/events")) as response:
        await page.goto(f"{url}/rooms/{room}")
    answer = await response.value
    return page, (await answer.all_headers())["x-worker-pid"]


async def join(browser: Browser, url: str, room: str, name: str) -> ChatPage:
    """Open a room in a browser profile of its own and take a name."""
    context = await browser.new_context()
    page, pid = await open_page(context, url, room)
    await page.get_by_label("Your name", exact=True).fill(name)
    await page.get_by_role("button", name="Join").click()
    chat = ChatPage(page, name, pid)
    await chat.is_live()
    return chat
