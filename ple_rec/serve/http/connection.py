"""Connections that are neither many, nor idle, nor endless in their heads, before there is a request to admit."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ple_rec.serve.http.errors import error_body

IDLE_SECONDS = 10.0  # that a connection may lack a whole head, between requests too
_LAST_SECONDS = 0.2
MAX_HEAD_BYTES = 64 << 10  # of a head, and of what stands around a body: sizes of chunks, trailers
MAX_CONNECTIONS = 1024  # of which the one that has been idle for longest gives way to a new one


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
        self._in_head = True
        self._framing = 0  # bytes since the last head, end of a message, or byte of a body
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
        """Parse bytes of heads, which are counted, and of bodies.

        An offer to go on in another protocol is ignored (RFC 9110, 7.8). The parser takes what follows one for that
        protocol, so the head is parsed again without it, and then the rest.
        """
        self._unset_keepalive_if_required()
        self._framing += len(data)
        rest = memoryview(data)
        try:
            while rest:
                try:
                    self.parser.feed_data(rest)
                    break
                except httptools.HttpParserUpgrade as offer:
                    rest = rest[offer.args[0] :]
                    if self.parser.get_method() == b"CONNECT":
                        break
                    self.parser.feed_data(self._head_without_upgrade())
        except httptools.HttpParserError:
            self.send_400_response("it is no request of HTTP/1.1")
            return
        if self._framing > MAX_HEAD_BYTES and not self._in_head:
            self.transport.abort()
        elif self._framing > MAX_HEAD_BYTES:
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"{self._framing} bytes", f"at most {MAX_HEAD_BYTES} bytes"
            )

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser refuses."""
        self._refuse(HTTPStatus.BAD_REQUEST, "", msg)

    def _refuse(self, status: HTTPStatus, value: str, rule: str) -> None:
        body = error_body("head", value, rule)
        lines = [f"HTTP/1.1 {status.value} {status.phrase}", "content-type: application/json"]
        lines += [f"content-length: {len(body)}", "connection: close", "", ""]
        self.transport.write("\r\n".join(lines).encode() + body)
        self.transport.close()

    def _head_without_upgrade(self) -> bytes:
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _is_offer(self) -> bool:
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a line of a head; trailers are dropped."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, unless its head is parsed again."""
        self._framing = 0
        if not self._is_offer():
            self._in_head, self._last_look = False, False
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand on a part of a body."""
        self._framing = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Expect another head."""
        self._framing = 0
        if not self._is_offer():
            self._in_head = True
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
