"""Ids: the public form of cursors."""

from zlib import crc32

from fastapi_broadcaster.backends.base import HistoryBackend
from fastapi_broadcaster.exceptions import HistoryLostError
from fastapi_broadcaster.messages import Cursor


class Ids:
    """Those of the backend; behind the mark of their channel where each channel counts for itself.

    Else the id of another channel would be taken for a place in this one, and skip what is before.
    What has no mark is the broker's own: the offset of a record, the ID of an entry.
    """

    def __init__(self, backend: HistoryBackend) -> None:
        self._backend = backend
        self._marked = backend.own_positions

    def format(self, channel: str, cursor: Cursor) -> str:
        id = self._backend.format(cursor)
        return f"{_mark(channel)}.{id}" if self._marked else id

    def parse(self, channel: str, id: str) -> Cursor:
        """Undo `format`; raises `HistoryLostError("reset")` for what is no id of this channel."""
        if self._marked and "." in id:
            mark, _, id = id.partition(".")
            if mark != _mark(channel):
                raise HistoryLostError("reset", kept={})
        return self._backend.parse(id)


def _mark(channel: str) -> str:
    return f"{crc32(channel.encode()):08x}"
