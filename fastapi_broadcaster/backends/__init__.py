"""Backends by URL scheme. A new one is a file beside this, and a line in the table."""

from collections.abc import Callable
from importlib import import_module
from typing import cast
from urllib.parse import urlsplit

from fastapi_broadcaster.backends._encode import BroadcastBackend, EncodeAdapter
from fastapi_broadcaster.backends.base import Backend, HistoryBackend, PatternBackend

# scheme: (module, function or class that takes the URL, extra)
SCHEMES: dict[str, tuple[str, str, str]] = {
    "memory": ("memory", "from_url", ""),
    "redis": ("redis", "from_url", "redis"),
    "rediss": ("redis", "from_url", "redis"),
    "redis-stream": ("redis_stream", "from_url", "redis"),
    "rediss-stream": ("redis_stream", "from_url", "redis"),
    "postgres": ("postgres", "from_url", "postgres"),
    "postgresql": ("postgres", "from_url", "postgres"),
    "postgres-stream": ("postgres_stream", "from_url", "postgres"),
    "kafka": ("kafka", "from_url", "kafka"),
    "amqp": ("rabbitmq", "from_url", "rabbitmq"),
    "amqps": ("rabbitmq", "from_url", "rabbitmq"),
    "amqp-stream": ("rabbitmq_stream", "from_url", "rabbitmq"),
    "amqps-stream": ("rabbitmq_stream", "from_url", "rabbitmq"),
}


def create_backend(url: str) -> Backend:
    """Make the backend that a URL names; nothing is connected yet.

    Raises `ValueError` for an unknown scheme or option, `ImportError` naming the extra to
    install. No message repeats the URL: it may hold a password.
    """
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme not in SCHEMES:
        plain, driver, _ = scheme.partition("+")  # as SQLAlchemy writes it
        if driver and plain in SCHEMES:
            raise ValueError(f"unknown backend {scheme}://: did you mean {plain}://?")
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ValueError(f"unknown backend {scheme + '://' if scheme else 'URL'}: use {known}")
    if not _is_readable(url):  # the standard library's own error repeats a part of it
        raise ValueError(f"{scheme}://: the URL cannot be read; is the password quoted?")
    module, factory, extra = SCHEMES[scheme]
    try:
        found = import_module(f"fastapi_broadcaster.backends.{module}")
    except ImportError as error:
        raise ImportError(
            f"{scheme}:// needs more packages: pip install 'fastapi-broadcaster[{extra}]'"
        ) from error
    return cast(Callable[[str], Backend], getattr(found, factory))(url)


def _is_readable(url: str) -> bool:
    try:
        urlsplit(url)
    except ValueError:
        return False
    return True


def choose_backend(url: str | None, backend: object) -> Backend:
    """The backend that a URL names, or the one that is given: one of the two."""
    if (url is None) == (backend is None):
        raise ValueError("give either a URL or backend=")
    return create_backend(url) if url is not None else adapt(backend)


def adapt(backend: object) -> Backend:
    """Take a backend object: one of ours, or one written for encode/broadcaster."""
    if isinstance(backend, Backend):
        return backend
    if hasattr(backend, "next_published"):
        return EncodeAdapter(cast(BroadcastBackend, backend))
    raise TypeError(
        f"backend= takes a Backend, or an object with next_published(), "
        f"not {type(backend).__name__}"
    )


__all__ = [
    "Backend",
    "BroadcastBackend",
    "HistoryBackend",
    "PatternBackend",
    "adapt",
    "choose_backend",
    "create_backend",
]
