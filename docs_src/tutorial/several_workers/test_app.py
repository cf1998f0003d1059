import json

from fastapi.testclient import TestClient

from .app import app
from .channels import ChatMessage, broadcaster, rooms


def test_what_is_said_in_a_room_reaches_its_listeners() -> None:
    with TestClient(app) as client, client.stream("GET", "/rooms/kitchen/events") as response:
        said = client.post("/rooms/kitchen", json={"user": "ada", "text": "Tea?"})
        assert said.status_code == 202  # else the stream would be waited for without end
        data = next(line for line in response.iter_lines() if line.startswith("data: "))
    assert json.loads(data.removeprefix("data: ")) == {"user": "ada", "text": "Tea?"}


def test_a_thread_can_publish_too() -> None:
    with TestClient(app) as client, client.stream("GET", "/rooms/cellar/events") as response:
        cellar = broadcaster.channel(rooms, room="cellar")
        cellar.publish_sync(ChatMessage(user="bob", text="Dark here."))
        data = next(line for line in response.iter_lines() if line.startswith("data: "))
    assert "Dark here." in data


def test_a_message_without_a_text_is_refused() -> None:
    with TestClient(app) as client:
        assert client.post("/rooms/kitchen", json={"user": "ada"}).status_code == 422
