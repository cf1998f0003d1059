"""Realtime channels for FastAPI, over the broker that is already there."""

from fastapi_broadcaster import _startup as _startup  # registers the checks of routes
from fastapi_broadcaster._listener import Backoff
from fastapi_broadcaster.backends import (
    Backend,
    BroadcastBackend,
    HistoryBackend,
    PatternBackend,
)
from fastapi_broadcaster.backends.memory import MemoryBackend
from fastapi_broadcaster.broadcaster import Broadcast, Broadcaster
from fastapi_broadcaster.channels import Channel, ChannelTemplate, Subscription
from fastapi_broadcaster.dependencies import (
    BroadcasterDep,
    channel,
    get_broadcaster,
    map_errors,
    subscriber,
)
from fastapi_broadcaster.exceptions import (
    BackendError,
    BackendUnavailableError,
    BroadcasterError,
    ChannelNameError,
    ConnectionLostError,
    HistoryLostError,
    MessageTooLargeError,
    NotConnectedError,
    PageError,
    SerializationError,
    SlowSubscriberError,
    Unsubscribed,
    UnsupportedError,
)
from fastapi_broadcaster.health import Health
from fastapi_broadcaster.history import Page
from fastapi_broadcaster.messages import Event, Gap, Message, Receipt
from fastapi_broadcaster.readiness import readiness
from fastapi_broadcaster.routers import channel_router
from fastapi_broadcaster.serializers import Serializer
from fastapi_broadcaster.sse import EventStreamResponse
from fastapi_broadcaster.subscribers import Subscriber
from fastapi_broadcaster.websockets import relay

__version__ = "0.1.0"
__all__ = [
    "Backend",
    "BackendError",
    "BackendUnavailableError",
    "Backoff",
    "Broadcast",
    "BroadcastBackend",
    "Broadcaster",
    "BroadcasterDep",
    "BroadcasterError",
    "Channel",
    "ChannelNameError",
    "ChannelTemplate",
    "ConnectionLostError",
    "Event",
    "EventStreamResponse",
    "Gap",
    "Health",
    "HistoryBackend",
    "HistoryLostError",
    "MemoryBackend",
    "Message",
    "MessageTooLargeError",
    "NotConnectedError",
    "Page",
    "PageError",
    "PatternBackend",
    "Receipt",
    "SerializationError",
    "Serializer",
    "SlowSubscriberError",
    "Subscriber",
    "Subscription",
    "Unsubscribed",
    "UnsupportedError",
    "channel",
    "channel_router",
    "get_broadcaster",
    "map_errors",
    "readiness",
    "relay",
    "subscriber",
]
