"""Socket of the server, which is bound before the model is loaded and listens after that."""

from __future__ import annotations

import socket

from ple_rec.errors import UserError

# Number of connections that may wait to be accepted.
BACKLOG = 1024


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound but does not listen yet, so that connections are refused until the model is loaded.

    Args:
        host: Address of this machine.
        port: Port; 0 for any free port.

    Raises:
        UserError: The address is in use, or is not an address of this machine.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        # Closed connections of an earlier server may still occupy the address.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise _binding_error(f"{host}:{port}", error) from error
    return listener


def listen(listener: socket.socket) -> None:
    """Accept connections.

    Raises:
        UserError: Another process has bound the same address and listens already.
    """
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise _binding_error(f"{host}:{port}", error) from error


def _binding_error(address: str, error: Exception) -> UserError:
    fix = "choose another port, or 0 for any free port"
    value = f"{address} cannot be bound ({error})"
    return UserError("--host, --port", value, "the server needs a free address of this machine", fix)
