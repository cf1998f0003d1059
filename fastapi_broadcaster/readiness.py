"""Readiness: whether an instance should get traffic, as a route."""

from fastapi import Response

from fastapi_broadcaster.dependencies import BroadcasterDep
from fastapi_broadcaster.health import Health


async def readiness(broadcaster: BroadcasterDep, response: Response) -> Health:
    """An endpoint: 200 while the broadcaster is connected, else 503, with its health.

    `app.add_api_route("/ready", readiness, responses={503: {"model": Health}})`. The body has
    neither the broker's address nor its errors. To be called from a route of your own for a
    second broadcaster.
    """
    health = broadcaster.health()
    if health.state != "connected":
        response.status_code = 503
    return health.outward()
