from __future__ import annotations

import re
import time

from playwright.async_api import Browser, expect

from servers import Redis
from tests.browser.chat_page import ChatPage, join
from tests.browser.conftest import serve
from tests.web.clients import WAIT
from tests.web.processes import WebServer


async def join_elsewhere(browser: Browser, server: WebServer, other: ChatPage) -> ChatPage:
    """Join the room of another page, until it is on another worker than that one."""
    room = other.page.url.rpartition("/")[2]
    deadline = time.monotonic() + 3 * WAIT
    while True:
        page = await join(browser, server.url, room, "Tomás")
        if page.stream_pid != other.stream_pid:
            return page
        assert time.monotonic() < deadline, f"always on worker {page.stream_pid}"
        await page.page.context.close()


async def test_two_pages_on_two_workers_chat(
    browser: Browser, redis_server: Redis, room: str
) -> None:
    with serve(redis_server.url, "--workers", "2") as server:
        ines = await join(browser, server.url, room, "Ines")
        tomas = await join_elsewhere(browser, server, ines)
        await ines.say("hello from Ines")
        await expect(tomas.text_of("hello from Ines")).to_be_visible()
        await tomas.say("hello from Tomás")
        for page in (ines, tomas):
            await page.sees("hello from Ines", "hello from Tomás")
            await expect(page.messages.locator(".author")).to_have_text(["Ines", "Tomás"])
            await expect(page.gaps).to_have_count(0)
        assert {ines.stream_pid, tomas.stream_pid} & {str(server.process.pid)} == set()


async def test_a_third_who_joins_late_sees_the_history(
    browser: Browser, chat: WebServer, room: str
) -> None:
    ines = await join(browser, chat.url, room, "Ines")
    tomas = await join(browser, chat.url, room, "Tomás")
    await ines.say("one")
    await expect(tomas.text_of("one")).to_be_visible()
    await tomas.say("two")
    late = await join(browser, chat.url, room, "Maya")
    await late.sees("one", "two")
    await late.say("three")
    for page in (ines, tomas, late):
        await page.sees("one", "two", "three")


async def test_own_messages_are_marked_and_have_a_time(
    browser: Browser, chat: WebServer, room: str
) -> None:
    ines = await join(browser, chat.url, room, "Ines")
    tomas = await join(browser, chat.url, room, "Tomás")
    await ines.say("mine")
    await expect(tomas.text_of("mine")).to_be_visible()
    await tomas.say("not mine")
    await expect(ines.text_of("not mine")).to_be_visible()
    await expect(ines.own.locator(".text")).to_have_text(["mine"])
    await expect(tomas.own.locator(".text")).to_have_text(["not mine"])
    times = ines.messages.locator("time")
    await expect(times).to_have_text([re.compile(r"\d\d:\d\d")] * 2)
    await expect(times.first).to_have_attribute("datetime", re.compile(r"^\d{4}-\d\d-\d\dT.*Z$"))


async def test_text_is_always_text(browser: Browser, chat: WebServer, room: str) -> None:
    evil = """<img src=x onerror="document.title='broken'"><script>broken</script>&amp;"""
    name = "<b onclick=x>Eve</b>"
    eve = await join(browser, chat.url, room, name)
    await eve.say(evil)
    await eve.say(f"/me {evil}")
    other = await join(browser, chat.url, room, "Ines")
    for page in (eve, other):
        await page.sees(evil, evil)
        await expect(page.messages.locator(".author")).to_have_text([name, name])
        await expect(page.log.locator("img, script, b")).to_have_count(0)
        assert await page.page.title() == f"#{room}"


async def test_me_acts(browser: Browser, chat: WebServer, room: str) -> None:
    ines = await join(browser, chat.url, room, "Ines")
    await ines.say("/me waves")
    await ines.say("/melon is no command")
    await ines.sees("waves", "/melon is no command")
    acts = ines.page.locator(".message.acts")
    await expect(acts).to_have_count(1)
    await expect(acts).to_have_text(re.compile(r"Ines\s*waves"))


async def test_rooms_are_apart(browser: Browser, chat: WebServer, room: str) -> None:
    ines = await join(browser, chat.url, room, "Ines")
    await ines.say("in the first")
    await ines.page.get_by_label("Open a room by its name").fill(f"{room} two")
    await ines.page.keyboard.press("Enter")
    await ines.page.wait_for_url(f"**/rooms/{room}-two")
    await ines.is_live()
    await ines.say("in the second")  # the name was kept
    await ines.sees("in the second")
    rooms = ines.page.get_by_role("navigation", name="Rooms")
    await expect(rooms.get_by_role("link")).to_have_text(["lobby", room, f"{room}-two"])
    await expect(rooms.locator("[aria-current=page]")).to_have_text(f"{room}-two")
    await rooms.get_by_role("link", name=room, exact=True).click()
    await ines.sees("in the first")


async def test_a_new_name_marks_anew(browser: Browser, chat: WebServer, room: str) -> None:
    ines = await join(browser, chat.url, room, "Ines")
    await ines.say("as Ines")
    await ines.page.get_by_role("button", name="Ines: change your name").click()
    await ines.page.get_by_label("Your name", exact=True).fill("Nina")
    await ines.page.keyboard.press("Enter")
    await ines.say("as Nina")
    await ines.sees("as Ines", "as Nina")
    await expect(ines.own.locator(".text")).to_have_text(["as Nina"])
