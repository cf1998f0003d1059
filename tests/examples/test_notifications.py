from __future__ import annotations

import pytest

from tests.examples.conftest import Serve
from tests.web.clients import get_json, open_events, post
from tests.web.processes import WebServer

INES, TOMAS, ADMIN = (f"session={name}-session" for name in ("ines", "tomas", "admin"))


@pytest.fixture
def app(serve: Serve) -> WebServer:
    return serve("notifications")


async def notify(app: WebServer, user: str, title: str, cookie: str = ADMIN) -> int:
    url = f"{app.url}/users/{user}/notifications"
    return (await post(url, {"title": title}, Cookie=cookie)).status_code


async def test_users_hear_only_their_own(app: WebServer) -> None:
    url = f"{app.url}/notifications"
    async with (
        open_events(url, headers={"Cookie": INES}) as ines,
        open_events(f"{url}?user_id=ines", headers={"Cookie": TOMAS}) as tomas,
    ):
        assert await notify(app, "ines", "for Ines") == 202
        assert await notify(app, "tomas", "for Tomás") == 202
        assert (await ines.event()).json == {"title": "for Ines", "body": ""}
        assert (await tomas.event()).json == {"title": "for Tomás", "body": ""}


async def test_what_came_while_they_were_away_waits(app: WebServer) -> None:
    assert await notify(app, "admin", "first") == 202
    async with open_events(f"{app.url}/notifications", headers={"Cookie": ADMIN}) as stream:
        assert (await stream.event()).json["title"] == "first"


@pytest.mark.parametrize("cookie", ["", "session=made-up"])
async def test_nobody_listens_without_a_session(app: WebServer, cookie: str) -> None:
    async with open_events(f"{app.url}/notifications", headers={"Cookie": cookie}) as stream:
        assert stream.status == 401


async def test_only_an_admin_notifies(app: WebServer) -> None:
    assert await notify(app, "ines", "psst", cookie=TOMAS) == 403
    assert await notify(app, "ines", "psst", cookie="") == 401


async def test_the_user_is_no_parameter_of_the_stream(app: WebServer) -> None:
    paths = (await get_json(f"{app.url}/openapi.json"))["paths"]
    parameters = {one["name"] for one in paths["/notifications"]["get"]["parameters"]}
    assert parameters == {"session", "Last-Event-ID", "last_event_id"}
