"""Admission of requests to the model: limits on their number, on the size of their bodies and on their time.

The routes `/v1/rank` and `/v1/score` get the body of a request from `Admission.admit`, which refuses the request before
it reads the body if the number of requests or the headers exceed a limit.
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

# Two requests are admitted regardless of the expected wait: one is read while the other is scored.
_ALWAYS_ADMITTED: Final = 2


class Admission:
    """Admission of requests to the model within the limits of the options.

    Args:
        options: Options of the server.
        seconds_per_request: Function that returns the recent mean time in which the model answers a request.

    Attributes:
        admitted: Number of admitted requests that have no answer yet.
        stopping: True if the server stops and admits no more requests.
    """

    def __init__(self, options: ServerOptions, seconds_per_request: Callable[[], float]) -> None:
        self.admitted = 0
        self.stopping = False
        self._options, self._seconds_per_request = options, seconds_per_request
        # Number of admitted requests whose body has not arrived.
        self._reading = 0

    @asynccontextmanager
    async def admit(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the body of a request; the request counts as admitted until the block ends or the time limit passes.

        The answer is sent after the block, since a slow client must not block others.

        Args:
            request: Request to the model; only its head has been read.

        Raises:
            RefusedError: The server stops, too many requests wait, the body is too large or not plain JSON by its
                headers, or the time limit has passed.
            ClientDisconnect: The client has closed the connection before the whole body arrived.
        """
        self._check_capacity()
        self._check_head(request.headers)
        self.admitted += 1
        chunks, complete = list[bytes](), False
        try:
            async with asyncio.timeout(self._options.time_limit) as limit:
                await self._read_body(request, chunks)
                complete, body = True, b"".join(chunks)
                # The chunks would be a second copy of the body until the answer is ready.
                chunks.clear()
                yield body
        except TimeoutError:
            if not limit.expired():
                raise
            if complete:
                rule = "the time limit passed before the answer was ready"
                raise RefusedError(504, "time", "", rule, reason="time") from None
            size, rule = sum(map(len, chunks)), "the body must arrive within the time limit"
            raise RefusedError(408, "body", f"{size} bytes so far", rule, reason="time") from None
        finally:
            self.admitted -= 1

    def _check_capacity(self) -> None:
        if self.stopping:
            headers = {"Retry-After": "1", "Connection": "close"}
            raise RefusedError(
                503, "server", "stopping", "it admits no more requests", reason="stopping", headers=headers
            )
        if self.admitted >= self._options.queue:
            raise self._overloaded_error(f"at most {self._options.queue} may wait")
        waiting = self._waiting_requests()
        seconds = waiting * self._seconds_per_request()
        if waiting >= _ALWAYS_ADMITTED and seconds > self._options.max_wait:
            rule = f"they take about {1000 * seconds:.0f} ms, more than {1000 * self._options.max_wait:.0f}"
            raise self._overloaded_error(rule)

    def _waiting_requests(self) -> int:
        """Return the number of admitted requests whose body has arrived; only these take time of the model."""
        return self.admitted - self._reading

    def _overloaded_error(self, rule: str) -> RefusedError:
        headers = {"Retry-After": str(max(1, math.ceil(self._waiting_requests() * self._seconds_per_request())))}
        return RefusedError(503, "queue", f"{self.admitted} requests", rule, reason="queue", headers=headers)

    def _check_head(self, headers: Headers) -> None:
        content_type = headers.get("content-type", "").split(";")[0].strip().lower()
        if content_type != "application/json":
            raise RefusedError(415, "Content-Type", content_type, "it must be application/json")
        if (coding := headers.get("content-encoding", "identity")) != "identity":
            raise RefusedError(415, "Content-Encoding", coding, "a body must not be compressed")
        # The HTTP parser has already refused lengths with other characters than digits.
        length = int(headers.get("content-length", 0))
        if length > self._options.max_bytes:
            raise self._too_large_error(length)

    async def _read_body(self, request: Request, chunks: list[bytes]) -> None:
        """Append the chunks of a body as they arrive, up to the largest size."""
        size = 0
        self._reading += 1
        try:
            async for chunk in request.stream():
                chunks.append(chunk)
                size += len(chunk)
                if size > self._options.max_bytes:
                    raise self._too_large_error(size)
        finally:
            self._reading -= 1

    def _too_large_error(self, size: int) -> RefusedError:
        return RefusedError(413, "body", f"{size} bytes", f"at most {self._options.max_bytes} bytes", reason="size")
