"""The package imports and runs with warnings as errors, and takes along only what it needs."""

import subprocess
import sys

EXAMPLE = """
import asyncio
from fastapi_broadcaster import Broadcast

async def main():
    async with Broadcast("memory://") as broadcast:
        await broadcast.publish(channel="chatroom", message="before")
        async with broadcast.subscribe(channel="chatroom", history=100) as subscriber:
            await broadcast.publish(channel="chatroom", message="hello")
            async for event in subscriber:
                print(event.channel, event.message, event.id is not None)
                if event.message == "hello":
                    break

asyncio.run(main())
"""
LAZY = """
import sys
import fastapi_broadcaster
drivers = {"redis", "asyncpg", "aiokafka", "aio_pika", "aiormq", "msgpack", "uvicorn"}
print(sorted(drivers & sys.modules.keys()))
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_short_example_runs_with_warnings_as_errors() -> None:
    done = run("-W", "error", "-X", "dev", "-c", EXAMPLE)
    assert done.stdout.splitlines() == ["chatroom before True", "chatroom hello True"]
    assert done.stderr == ""
    assert done.returncode == 0


def test_every_public_name_imports_with_warnings_as_errors() -> None:
    done = run("-W", "error", "-c", "from fastapi_broadcaster import *; print(relay.__name__)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "relay\n", "")


def test_no_driver_is_imported_before_its_url_is_named() -> None:
    done = run("-c", LAZY)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
