"""Two brokers in one app: orders go through one, what auditors see through another.

SHOP_URL=redis://localhost:6379 AUDIT_URL=memory:// uvicorn examples.two_broadcasters:app
curl -N localhost:8000/audit/events
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from examples.audit_router import audit_broadcaster, router
from fastapi_broadcaster import Broadcaster

shop_broadcaster = Broadcaster(os.environ.get("SHOP_URL", "memory://"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """The first is the app's own, which routes get; the second is for those that name it."""
    async with shop_broadcaster.lifespan(app), audit_broadcaster.lifespan(app):
        yield


app = FastAPI(title="Shops", lifespan=lifespan)
app.include_router(router)
