"""Bounds on the requests of the model: how many there are, and how large and how late the body of one may be.

A request that is refused has its body neither kept nor parsed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request

from ple_rec.serving.http.errors import RefusedError
from ple_rec.serving.http.options import ServerOptions

_ALWAYS_ADMITTED: Final = 2  # requests, however long they take: one is computed while the other is read


class Admission:
    """Admits requests of the model as long as there is room for them.

    Args:
        options: Options of the server.
        seconds_per_request: Function that returns the recent mean time of a request of the model.
    """

    def __init__(self, options: ServerOptions, seconds_per_request: Callable[[], float]) -> None:
        self.admitted = 0  # requests that have no answer yet
        self.stopping = False
        self._options, self._seconds_per_request = options, seconds_per_request
        self._reading = 0  # requests whose body is on its way

    @asynccontextmanager
    async def admit(self, request: Request) -> AsyncIterator[bytes]:
        """Give the body of a request, which counts until the block ends; it is cancelled at the time limit.

        To send the answer is left for later: a client may take its time for that.

        Args:
            request: Request of the model, of which only the head was read.

        Raises:
            RefusedError: There is no room for it, it is too large, or the time is over.
            ClientDisconnect: The client has gone before all of the body came.
        """
        self._check_capacity()
        self._check_head(request.headers)
        self.admitted += 1
        chunks, complete = list[bytes](), False
        try:
            async with asyncio.timeout(self._options.time_limit) as limit:
                await self._read_body(request, chunks)
                complete, body = True, b"".join(chunks)
                chunks.clear()  # the body stays for as long as the answer takes, and once is enough
                yield body
        except TimeoutError:
            if not limit.expired():
                raise
            if complete:
                rule = "the time limit passed before there was an answer"
                raise RefusedError(504, "time", "", rule, reason="time") from None
            size, rule = sum(map(len, chunks)), "the body has to arrive in the time limit"
            raise RefusedError(408, "body", f"{size} bytes so far", rule, reason="time") from None
        finally:
            self.admitted -= 1

    def _check_capacity(self) -> None:
        if self.stopping:
            headers = {"Retry-After": "1", "Connection": "close"}
            raise RefusedError(
                503, "server", "stopping", "it takes no more requests", reason="stopping", headers=headers
            )
        if self.admitted >= self._options.queue:
            raise self._overloaded(f"{self._options.queue} requests wait already")
        waiting = self._waiting()
        seconds = waiting * self._seconds_per_request()
        if waiting >= _ALWAYS_ADMITTED and seconds > self._options.max_wait:
            rule = f"they take some {1000 * seconds:.0f} ms, more than {1000 * self._options.max_wait:.0f}"
            raise self._overloaded(rule)

    def _waiting(self) -> int:
        """Return how many requests have sent their body: the others take none of the model's time."""
        return self.admitted - self._reading

    def _overloaded(self, rule: str) -> RefusedError:
        headers = {"Retry-After": str(max(1, math.ceil(self._waiting() * self._seconds_per_request())))}
        return RefusedError(503, "queue", f"{self.admitted} requests", rule, reason="queue", headers=headers)

    def _check_head(self, headers: Headers) -> None:
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/json":
            raise RefusedError(415, "Content-Type", kind, "it has to be application/json")
        if (coding := headers.get("content-encoding", "identity")) != "identity":
            raise RefusedError(415, "Content-Encoding", coding, "a body is not compressed")
        length = int(headers.get("content-length", 0))  # digits, as the parser has seen to
        if length > self._options.max_bytes:
            raise self._too_large(length)

    async def _read_body(self, request: Request, chunks: list[bytes]) -> None:
        """Append what comes of a body, within its bounds."""
        size = 0
        self._reading += 1
        try:
            async for chunk in request.stream():
                chunks.append(chunk)
                size += len(chunk)
                if size > self._options.max_bytes:
                    raise self._too_large(size)
        finally:
            self._reading -= 1

    def _too_large(self, size: int) -> RefusedError:
        return RefusedError(413, "body", f"{size} bytes", f"at most {self._options.max_bytes} bytes", reason="size")
