"""Why a broker could not be reached, in words."""

import asyncio
import errno
import os
import re
import ssl
from collections.abc import Iterator


def reason(error: BaseException) -> str:
    """The system's own words where it has a number for it, else those of the driver or server."""
    for cause in _chain(error):
        if isinstance(cause, ssl.SSLError):
            return str(cause)
    for cause in _chain(error):
        found = re.search(r"\[Errno (-?\d+)\] (.+)", str(cause))
        if found is not None and isinstance(cause, OSError):
            code = int(found[1])
            # others are not the system's: no such host (below 0), what RabbitMQ closes with (320)
            return os.strerror(code) if code in errno.errorcode else found[2]
    # aiokafka cancels the requests of a server that does not answer
    if isinstance(error, TimeoutError | asyncio.CancelledError) and not str(error):
        return "no answer in time"
    return str(error) or type(error).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set[int]()  # drivers raise one error again and again, and so make circles
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
