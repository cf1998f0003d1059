"""The package's face and its inner order: what it exports, documents and imports."""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastapi_broadcaster

ROOT = Path(fastapi_broadcaster.__file__).parent
EXPORTED = """
    Backend BackendError BackendUnavailableError Backoff Broadcast BroadcastBackend Broadcaster
    BroadcasterDep BroadcasterError Channel ChannelNameError ChannelTemplate ConnectionLostError
    Event EventStreamResponse Gap Health HistoryBackend HistoryLostError MemoryBackend Message
    MessageTooLargeError NotConnectedError Page PageError PatternBackend Receipt SerializationError
    Serializer SlowSubscriberError Subscriber Subscription Unsubscribed UnsupportedError channel
    channel_router get_broadcaster map_errors readiness relay subscriber
"""
ORDER = """
    exceptions messages serializers deliveries _patterns _targets _buffer _inbox _options
    subscribers backends _ids history health _names _capabilities channels _hub _publisher
    _reconciler _listener _hooks _engine _signals _lifespan _portal broadcaster dependencies
    _startup readiness streams _hang_up sse websockets routers __init__
"""
RANKS = {name: rank for rank, name in enumerate(ORDER.split())}
WEB = {
    "dependencies",
    "_startup",
    "readiness",
    "streams",
    "_hang_up",
    "sse",
    "websockets",
    "routers",
}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it: in functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            assert node.module is not None
            for name in node.names:
                inner = ROOT.parent.joinpath(*node.module.split("."), f"{name.name}.py")
                yield f"{node.module}.{name.name}" if inner.is_file() else node.module


def rank(module: str) -> int:
    name = module.removeprefix("fastapi_broadcaster").removeprefix(".") or "__init__"
    return RANKS[name.partition(".")[0]]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    relative = path.relative_to(ROOT)
    own = "backends" if relative.parts[0] == "backends" else path.stem
    for name in imported(path):
        top = name.partition(".")[0]
        if top in ("fastapi", "starlette"):
            assert own in WEB, f"{relative} imports {name}"
        if top == "fastapi_broadcaster":
            inside = own == "backends" and name.startswith("fastapi_broadcaster.backends")
            assert inside or rank(name) < RANKS[own], f"{relative} imports {name}"


def test_backends_import_one_way_among_themselves() -> None:
    found = {
        path.stem: {
            name.rpartition(".")[2]
            for name in imported(path)
            if name.startswith("fastapi_broadcaster.backends.")
        }
        for path in (ROOT / "backends").glob("*.py")
    }
    done: set[str] = set()
    while ready := {name for name, wanted in found.items() if wanted <= done} - done:
        done |= ready
    assert done == set(found), f"a cycle among {set(found) - done}"
    assert found["base"] == set()


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_short(path: Path) -> None:
    lines = re.sub(r"  # (pyright|type|noqa): .*", "", path.read_text()).splitlines()
    assert len(lines) <= 300
    assert max(map(len, lines), default=0) <= 100


def test_what_is_exported_is_known() -> None:
    assert sorted(fastapi_broadcaster.__all__) == sorted(EXPORTED.split())
    assert len(set(fastapi_broadcaster.__all__)) == len(fastapi_broadcaster.__all__)


@pytest.mark.parametrize("name", [name for name in EXPORTED.split() if name != "BroadcasterDep"])
def test_public_names_are_documented(name: str) -> None:
    found = getattr(fastapi_broadcaster, name)
    assert inspect.getdoc(found), f"{name} has no docstring"
    assert found.__doc__, f"{name} inherits its docstring"
    assert found.__module__.startswith("fastapi_broadcaster")


def public_methods() -> Iterator[tuple[str, object]]:
    for name in EXPORTED.split():
        found = getattr(fastapi_broadcaster, name)
        if inspect.isclass(found):
            for method, value in vars(found).items():
                if not method.startswith("_") and (
                    inspect.isfunction(value) or isinstance(value, property | staticmethod)
                ):
                    yield f"{name}.{method}", value


INNER = {  # called by other modules of the package, not by users
    "Broadcaster": {"check_name", "check_options", "publish_to", "publish_to_sync"},
    "Subscriber": {"flush", "attach", "detach"},
}
INNER["Broadcaster"] |= {"page_of", "open"}
INHERITED = {"BroadcastBackend", "MemoryBackend", "EventStreamResponse", "Serializer"}


@pytest.mark.parametrize(
    ("name", "method"), [pytest.param(*found, id=found[0]) for found in public_methods()]
)
def test_public_methods_are_documented(name: str, method: object) -> None:
    owner, _, short = name.replace("Broadcast.", "Broadcaster.").partition(".")
    if owner not in INHERITED and short not in INNER.get(owner, ()):
        assert inspect.getdoc(method)


def test_every_module_imports_by_itself() -> None:
    names = [found.name for found in pkgutil.walk_packages([str(ROOT)], "fastapi_broadcaster.")]
    assert len(names) == len(modules()) - 1
    for name in names:
        assert importlib.import_module(name).__doc__, f"{name} has no docstring"
