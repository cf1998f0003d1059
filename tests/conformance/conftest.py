"""What holds for every test of a promise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest


@pytest.fixture(autouse=True)
async def no_task_left() -> AsyncIterator[None]:
    """No task of the package outlives a test."""
    yield
    left = [
        task.get_name()
        for task in asyncio.all_tasks()
        if task.get_name().startswith("broadcaster-") and not task.done()
    ]
    assert not left
