from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from fastapi_broadcaster import Broadcaster

broadcaster = Broadcaster("memory://")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    print("what the app needs is made here")
    async with broadcaster.lifespan(app):
        yield
    print("and goes here")


app = FastAPI(lifespan=lifespan)
