import logging

from fastapi import FastAPI

from fastapi_broadcaster import Broadcaster, Health, readiness

logger = logging.getLogger(__name__)


def broker_is_lost(health: Health) -> None:
    logger.error("%s is lost: %s", health.backend, health.last_error)


async def broker_is_back(health: Health) -> None:
    logger.warning("%s is back, for the %d. time", health.backend, health.reconnects)


broadcaster = Broadcaster("memory://", on_disconnect=broker_is_lost, on_reconnect=broker_is_back)
app = FastAPI(lifespan=broadcaster.lifespan)
app.add_api_route("/ready", readiness, responses={503: {"model": Health}})
