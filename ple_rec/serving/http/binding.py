"""The server's socket, bound before anything is loaded, which listens once there is a model to answer with."""

from __future__ import annotations

import socket

from ple_rec.errors import UserError

BACKLOG = 1024  # connections that wait to be accepted


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that has the address and does not listen yet: who asks too early is refused, not left waiting.

    Raises:
        UserError: The address is taken, or none of this machine's.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier server may linger
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise _unbound(f"{host}:{port}", error) from error
    return listener


def listen(listener: socket.socket) -> None:
    """Accept connections.

    Raises:
        UserError: Another process that has the address, too, was the first to listen.
    """
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise _unbound(f"{host}:{port}", error) from error


def _unbound(address: str, error: Exception) -> UserError:
    fix = "choose another port, 0 for any that is free"
    value = f"{address} cannot be bound ({error})"
    return UserError("--host, --port", value, "an address of this machine that is free", fix)
