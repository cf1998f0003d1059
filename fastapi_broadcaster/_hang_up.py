"""Hanging up on a client that takes nothing: ASGI has no word for it, so its socket is found."""

import os
import socket
import struct

from starlette.types import Scope

_OPEN_FILES = "/proc/self/fd"
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: what was not sent yet is thrown away


def hang_up(scope: Scope) -> bool:
    """Reset the TCP connection of a request; False where it is not found.

    A server that closes it waits until the client has taken all that was sent before, which it
    may never do. It is not found on a Unix socket, and where a proxy is trusted to say who the
    client is: the proxy has a time-out of its own.
    """
    client, server = scope.get("client"), scope.get("server")
    if not client or not server or not server[1] or not os.path.isdir(_OPEN_FILES):
        return False
    if not scope.get("http_version", "1.1").startswith("1"):
        return False  # other streams share the connection
    address, port = (client[0], int(client[1])), int(server[1])  # they are text from Granian
    return any(_reset_if(int(number), address, port) for number in os.listdir(_OPEN_FILES))


def _reset_if(number: int, client: tuple[str, int], port: int) -> bool:
    """Reset the connection of this file, if it is that client's to this port."""
    try:
        peer = socket.socket(fileno=number)
    except OSError:
        return False
    try:
        if peer.getpeername()[:2] != client or peer.getsockname()[1] != port:
            return False
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        peer.shutdown(socket.SHUT_RDWR)
        return True
    except (OSError, IndexError):  # not connected, or not TCP
        return False
    finally:
        peer.detach()  # the file is the server's, who closes it
