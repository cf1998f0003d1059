"""The page itself: keyboard, screen readers, phones, colours, and nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import httpx2
import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.chat_page import join, open_page
from tests.web.clients import WAIT, post
from tests.web.processes import WebServer

WIDE, PHONE = (1280, 800), (390, 780)


async def test_the_keyboard_is_enough(browser: Browser, chat: WebServer, room: str) -> None:
    page, _ = await open_page(await browser.new_context(), chat.url, room)
    keyboard = page.keyboard
    await keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to writing")).to_be_focused()
    await keyboard.press("Enter")
    await keyboard.press("Tab")
    await expect(page.get_by_label("Your name", exact=True)).to_be_focused()
    await keyboard.type("Ines")
    await keyboard.press("Enter")
    await expect(page.get_by_label("Message", exact=True)).to_be_focused()
    await keyboard.type("one")
    await keyboard.press("Shift+Enter")
    await keyboard.type("two")
    await keyboard.press("Enter")
    await expect(page.locator(".message .text")).to_have_text("one\ntwo")
    await expect(page.get_by_label("Message", exact=True)).to_be_focused()


async def test_every_control_has_a_name(browser: Browser, chat: WebServer, room: str) -> None:
    ines = await join(browser, chat.url, room, "Ines")
    tree = await ines.page.locator("body").aria_snapshot()
    assert f'heading "{room}" [level=1]' in tree
    for line in tree.splitlines():
        role, _, name = line.strip(" -").partition(" ")
        if role.rstrip(":") in ("button", "link", "textbox", "log", "navigation", "region"):
            assert name.startswith('"'), line


async def test_messages_are_read_aloud_once_the_history_is_there(
    browser: Browser, chat: WebServer, room: str
) -> None:
    await post(f"{chat.url}/rooms/{room}", {"user": "Tomás", "text": "earlier"})
    ines = await join(browser, chat.url, room, "Ines")
    await ines.sees("earlier")
    await expect(ines.log).to_have_attribute("aria-live", "polite")


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
async def test_nothing_sticks_out(
    browser: Browser, chat: WebServer, room: str, size: tuple[int, int]
) -> None:
    room = f"{room}-{'long' * 8}"
    texts = ["x" * 500, "/me " + "y" * 300, "many words " * 50, "short"]
    for text in texts:
        await post(f"{chat.url}/rooms/{room}", {"user": "n" * 40, "text": text})
    ines = await join(browser, chat.url, room, "N" * 40)
    await expect(ines.messages).to_have_count(len(texts))
    await ines.page.set_viewport_size({"width": size[0], "height": size[1]})
    assert await sticking_out(ines.page) == []
    await expect(ines.text).to_be_in_viewport()
    await expect(ines.state).to_be_in_viewport()
    await expect(ines.text_of("short")).to_be_in_viewport()


async def sticking_out(page: Page) -> Sequence[str]:
    """The elements of the room that are wider than the window lets them be."""
    found: list[str] = await page.evaluate(
        """() => [...document.querySelectorAll("main, main *")]
            .filter(one => one.getBoundingClientRect().right > innerWidth + 1)
            .map(one => one.outerHTML.slice(0, 80))"""
    )
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_can_be_read_in_light_and_dark(
    browser: Browser, chat: WebServer, room: str, scheme: Literal["light", "dark"]
) -> None:
    for text in ("theirs", "/me acts"):
        await post(f"{chat.url}/rooms/{room}", {"user": "Tomás", "text": text})
    ines = await join(browser, chat.url, room, "Ines")
    await ines.page.emulate_media(color_scheme=scheme)
    await ines.say("mine")
    dark = await ines.page.evaluate(LUMINANCE + "luminance(document.body) < 0.2")
    assert dark is (scheme == "dark")
    weak = await ines.page.evaluate(LUMINANCE + "weak()")
    assert weak == []


# Contrast as WCAG counts it: 4.5 to 1 for text. Colours are painted, so that any notation will do.
LUMINANCE = """
const paint = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
const channels = (...colours) => {
  for (const colour of colours) { paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1); }
  return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3).map(value => {
    value /= 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
};
const light = (...colours) => {
  const [r, g, b] = channels(...colours);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const grounds = one => one ? [...grounds(one.parentElement), getComputedStyle(one).backgroundColor]
  : ["white"];
const luminance = one => light(...grounds(one));
const weak = () => [...document.querySelectorAll("body *")].filter(one =>
  one.checkVisibility() && [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim())
).map(one => {
  const text = light(...grounds(one), getComputedStyle(one).color), ground = luminance(one);
  const ratio = (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
  return [one.outerHTML.slice(0, 60), ratio];
}).filter(([, ratio]) => ratio < 4.5);
"""


async def test_who_reads_further_up_is_not_moved(
    browser: Browser, chat: WebServer, room: str
) -> None:
    for number in range(50):
        await post(f"{chat.url}/rooms/{room}", {"user": "Tomás", "text": f"line {number}"})
    ines = await join(browser, chat.url, room, "Ines")
    await expect(ines.text_of("line 49")).to_be_in_viewport()
    newer = ines.page.get_by_role("button", name="New messages")
    await expect(newer).to_be_hidden()
    await ines.text_of("line 0").scroll_into_view_if_needed()
    await post(f"{chat.url}/rooms/{room}", {"user": "Tomás", "text": "new"})
    await expect(newer).to_be_visible()
    await expect(ines.text_of("line 0")).to_be_in_viewport()
    await expect(ines.text_of("new")).not_to_be_in_viewport()
    await newer.click()
    await expect(ines.text_of("new")).to_be_in_viewport()
    await expect(newer).to_be_hidden()


async def test_older_messages_are_a_click_away(
    browser: Browser, chat: WebServer, room: str
) -> None:
    texts = [f"line {number}" for number in range(120)]
    async with httpx2.AsyncClient(base_url=chat.url, timeout=WAIT) as client:
        for text in texts:
            await client.post(f"/rooms/{room}", json={"user": "Tomás", "text": text})
    ines = await join(browser, chat.url, room, "Ines")
    older = ines.page.get_by_role("button", name="Older messages")
    await ines.sees(*texts[70:])
    await older.click()
    await ines.sees(*texts[20:])
    await expect(ines.text_of("line 70")).to_be_in_viewport()  # the reader was not moved
    await expect(older).to_be_visible()
    await older.click()
    await ines.sees(*texts)
    await expect(older).to_be_hidden()
    await expect(ines.page.locator(".note.day")).to_have_text(["Today"])
    await ines.say("newest")
    await ines.sees(*texts, "newest")


async def test_a_name_survives_a_reload_and_tabs_have_their_own(
    browser: Browser, chat: WebServer, room: str
) -> None:
    ines = await join(browser, chat.url, room, "Ines")
    await ines.page.reload()
    await expect(ines.text).to_be_focused()
    other, _ = await open_page(ines.page.context, chat.url, room)
    await expect(other.get_by_label("Your name", exact=True)).to_have_value(
        "Ines"
    )  # a suggestion only
    await other.get_by_label("Your name", exact=True).fill("Tomás")
    await other.keyboard.press("Enter")
    await other.get_by_label("Message", exact=True).fill("from the other tab")
    await other.keyboard.press("Enter")
    await ines.sees("from the other tab")
    await expect(ines.own).to_have_count(0)


async def test_a_room_that_cannot_be(browser: Browser, chat: WebServer) -> None:
    page = await browser.new_page()
    await page.goto(f"{chat.url}/rooms/a.b")
    await expect(page.get_by_role("status")).to_have_text("No such room")
    await expect(page.get_by_text("A room's name has no spaces")).to_be_visible()
    await expect(page.get_by_label("Your name", exact=True)).to_be_hidden()


async def test_everything_comes_from_this_server(
    browser: Browser, chat: WebServer, room: str
) -> None:
    context = await browser.new_context()
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page, _ = await open_page(context, chat.url, room)
    await expect(page.get_by_role("status")).to_have_text("Live", timeout=WAIT * 1_000)
    assert len(asked) >= 5
    assert [url for url in asked if not url.startswith(f"{chat.url}/")] == []
