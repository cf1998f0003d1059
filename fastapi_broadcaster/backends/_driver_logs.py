"""What drivers log while a broker is away, which the package tells in words of its own."""

import logging
import math
import time

_PAUSE = 10.0  # seconds until the same is said again


class _Seldom(logging.Filter):
    """Lets what is said at one place of a driver through once in a while, in one line.

    aiokafka tells hundreds of times a second that it cannot connect, and aiormq shows a traceback
    for each connection that a broker takes with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        place, now = (record.pathname, record.lineno), time.monotonic()
        if now - self._said.get(place, -math.inf) < _PAUSE:
            return False
        self._said[place] = now
        if record.levelno == logging.WARNING:
            record.exc_info = None
        return True


def quieten(*loggers: str) -> None:
    """Have a driver's loggers repeat no warning and no error within 10 seconds."""
    for name in loggers:
        logging.getLogger(name).addFilter(_Seldom())
