"""Connections that are neither many, nor idle, nor endless in their heads, before there is a request to admit."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

IDLE_SECONDS = 10.0  # that a connection may lack a whole head, between requests too
_LAST_SECONDS = 0.2
MAX_HEAD_BYTES = 64 << 10
MAX_CONNECTIONS = 1024  # of which the one that has been idle for longest gives way to a new one

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class GuardedProtocol(HttpToolsProtocol):
    """One connection.

    What a client sends after its answer (the body of a request that was refused) is read and dropped, so that it
    sees the answer: a connection that is closed on unread data is reset. It too has to end in the idle time. An answer
    of which the client reads nothing for so long is given up.
    """

    idle_seconds = IDLE_SECONDS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection; where there are too many, that which has been idle for longest is closed."""
        super().connection_made(transport)
        self._in_head, self._head_bytes, self._changes = True, 0, 0
        self._idle_since = self.loop.time()
        self._last_look, self._unread = False, 0
        self._check = self.loop.call_later(self.idle_seconds, self._look)
        if len(self.connections) > MAX_CONNECTIONS:
            ours = (each for each in self.connections if isinstance(each, GuardedProtocol))
            idle = (each for each in ours if each.is_idle())  # this one is, since just now
            min(idle, key=lambda each: each._idle_since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._check.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of heads, which are counted, and bodies."""
        changes, self._last_look = self._changes, False
        super().data_received(data)
        if self._in_head and self._changes == changes and self.parser is not None:  # nothing but a part of a head
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    def on_headers_complete(self) -> None:
        """The request starts."""
        self._in_head = False
        self._changes += 1
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """What follows is another head."""
        self._in_head, self._head_bytes = True, 0
        self._changes += 1
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The idle time begins."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def is_idle(self) -> bool:
        """Return whether no request is being read or answered; a head that is not whole is none."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def _look(self) -> None:
        """Close what has been idle; abort what was closed and still hangs, as its client does not read."""
        unread, self._unread = self._unread, self.transport.get_write_buffer_size()
        if self.flow.write_paused and unread == self._unread:  # not a byte since the last look
            self.transport.abort()
            return
        idle = self.is_idle()
        left = self._idle_since + self.idle_seconds - self.loop.time()
        if idle and left <= 0:
            if self.transport.is_closing():
                self.transport.abort()
                return
            if not self._last_look:  # a request may have arrived that a busy loop has not read yet
                self._last_look = True
                self._check = self.loop.call_later(_LAST_SECONDS, self._look)
                return
            self.transport.close()
            left = self.idle_seconds
        self._check = self.loop.call_later(max(left, 0.1) if idle else self.idle_seconds, self._look)


def protocol(idle_seconds: float) -> type[Any]:
    """The class of connections that may be idle for so long."""
    return type("Protocol", (GuardedProtocol,), {"idle_seconds": idle_seconds})
