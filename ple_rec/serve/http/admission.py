"""Middleware before the routes: it checks the token or the Host, and bounds requests, the size and time of a body.

All of it is decided by a request's head. A request that is refused has its body neither kept nor parsed.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ple_rec.serve.http.errors import RefusedError, internal_error
from ple_rec.serve.http.log import log_error, log_info
from ple_rec.serve.http.metrics import Metrics
from ple_rec.serve.http.options import ServerOptions

ADMITTED: Final = "ple_rec.admitted"  # key of `AdmittedRequest` in the scope
MODEL_PATHS: Final = ("/v1/rank", "/v1/score")
FREE_PATHS: Final = ("/healthz", "/readyz", "/")  # need no token; nor does what lies below:
FREE_FOLDER: Final = "/static/"
CLIENT_CLOSED_REQUEST: Final = 499  # status that nginx gave to a request whose client did not wait; it is not sent
_KNOWN_PATHS = (*MODEL_PATHS, *FREE_PATHS, "/metrics", "/openapi.json", "/v1/model", "/v1/examples")
_ALWAYS_ADMITTED = 2  # requests, however long they take: one is computed while the other is read
_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::[0-9]*)?")  # a name or address, and perhaps a port


@dataclass(frozen=True, slots=True)
class AdmittedRequest:
    """A request of the model whose body has been read.

    Args:
        body: Bytes of the body.
        deadline: Latest time of the answer, as `time.monotonic` counts.
    """

    body: bytes
    deadline: float


class AdmissionMiddleware:
    """The outermost ASGI application, which admits a request of the model or refuses it.

    Args:
        app: Application with the routes.
        options: Options of the server.
        metrics: Metrics that count every request.
    """

    def __init__(self, app: ASGIApp, options: ServerOptions, metrics: Metrics) -> None:
        self.admitted = 0  # requests of the model that have no answer yet
        self.stopping = False
        self.seconds_per_request: Callable[[], float] = lambda: 0.0  # recent mean of a request of the model
        self._app, self._options, self._metrics = app, options, metrics
        self._token = None if options.token is None else options.token.encode()
        self._reading = 0  # requests whose body is on its way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            if status != CLIENT_CLOSED_REQUEST:
                await send(message)

        path: str = scope["path"]
        try:
            self._check_host(scope)
            self._check_token(scope, path)
            if path in MODEL_PATHS and scope["method"] == "POST":
                await self._admit(scope, receive, send_noting_status)
            elif scope["method"] == "HEAD":  # as GET; uvicorn, whose scope still says HEAD, sends no body
                await self._app(dict(scope) | {"method": "GET"}, receive, send_noting_status)
            else:
                await self._app(scope, receive, send_noting_status)
        except RefusedError as refusal:
            if refusal.reason is not None:
                self._metrics.refused.labels(refusal.reason).inc()
            await refusal.response()(scope, receive, send_noting_status)
        except ClientDisconnect:
            status = CLIENT_CLOSED_REQUEST
        except Exception as error:
            log_error("request_failed", error, path=path)
            if not status:
                await internal_error().response()(scope, receive, send_noting_status)
        self._record(scope, path_label(path), status, time.perf_counter() - begun)

    def _record(self, scope: Scope, place: str, status: int, seconds: float) -> None:
        if status == CLIENT_CLOSED_REQUEST:
            self._metrics.disconnected.inc()
        else:
            self._metrics.requests.labels(place, str(status)).inc()
        if status == 200:
            self._metrics.seconds.labels(place).observe(seconds)
        if self._options.access_log:
            client = scope["client"][0] if scope.get("client") else "-"
            fields = {"method": scope["method"], "path": scope["path"], "status": status, "ms": 1000 * seconds}
            log_info("request", client=client, **fields)

    def _check_host(self, scope: Scope) -> None:
        """Refuse another Host, on all paths; a request without one is of no browser."""
        if not self._options.checks_host or (header := _header(scope, b"host")) is None:
            return
        host = header.decode("latin-1").strip().lower()
        match = _HOST.fullmatch(host)
        name = "" if match is None else match[1] or match[2] or ""
        if name not in ("localhost", self._options.host.lower()) and not _is_loopback(name):
            rule = "without a token only localhost, loopback addresses and --host's own value are answered"
            fix = "ask by one of these, or start the server with --token-file FILE or --no-token"
            raise RefusedError(421, "Host", host, f"{rule}; {fix}", reason="host")

    def _check_token(self, scope: Scope, path: str) -> None:
        if self._token is None or path in FREE_PATHS or path.startswith(FREE_FOLDER):
            return
        header = _header(scope, b"authorization")
        scheme, _, token = (header or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
            value = "none" if header is None else "another"
            headers = {"WWW-Authenticate": "Bearer"}
            raise RefusedError(
                401, "Authorization", value, "it has to be Bearer and the token", reason="token", headers=headers
            )

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of the model, if there is room for it."""
        deadline = time.monotonic() + self._options.time_limit
        self._check_capacity()
        self._check_head(scope)
        self.admitted += 1
        counted = True

        def release() -> None:
            nonlocal counted
            self.admitted -= counted
            counted = False

        async def send_and_release(message: Message) -> None:
            release()  # what is left is to send the answer, for which a client may take its time
            await send(message)

        try:
            scope[ADMITTED] = AdmittedRequest(await self._read_body(receive), deadline)
            await self._app(scope, receive, send_and_release)
        finally:
            release()

    def _check_capacity(self) -> None:
        if self.stopping:
            headers = {"Retry-After": "1", "Connection": "close"}
            raise RefusedError(
                503, "server", "stopping", "it takes no more requests", reason="stopping", headers=headers
            )
        if self.admitted >= self._options.queue:
            raise self._overloaded(f"{self._options.queue} requests wait already")
        waiting = self._waiting()
        seconds = waiting * self.seconds_per_request()
        if waiting >= _ALWAYS_ADMITTED and seconds > self._options.max_wait:
            rule = f"they take some {1000 * seconds:.0f} ms, more than {1000 * self._options.max_wait:.0f}"
            raise self._overloaded(rule)

    def _waiting(self) -> int:
        """Return how many requests have sent their body: the others take none of the model's time."""
        return self.admitted - self._reading

    def _overloaded(self, rule: str) -> RefusedError:
        headers = {"Retry-After": str(max(1, math.ceil(self._waiting() * self.seconds_per_request())))}
        return RefusedError(503, "queue", f"{self.admitted} requests", rule, reason="queue", headers=headers)

    def _check_head(self, scope: Scope) -> None:
        kind = (_header(scope, b"content-type") or b"").split(b";")[0].strip().lower()
        if kind != b"application/json":
            raise RefusedError(415, "Content-Type", kind.decode("latin-1"), "it has to be application/json")
        if (coding := _header(scope, b"content-encoding")) not in (None, b"identity"):
            raise RefusedError(415, "Content-Encoding", (coding or b"").decode("latin-1"), "a body is not compressed")
        length = _header(scope, b"content-length")
        if length is not None and int(length) > self._options.max_bytes:  # digits, as the parser has seen to
            raise self._too_large(int(length))

    async def _read_body(self, receive: Receive) -> bytes:
        """Return all of a body, within its bounds."""
        chunks, size = list[bytes](), 0
        self._reading += 1
        try:
            async with asyncio.timeout(self._options.time_limit):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    if size > self._options.max_bytes:
                        raise self._too_large(size)
                    if not message.get("more_body", False):
                        return b"".join(chunks)
        except TimeoutError:
            rule = "the body has to arrive in the time limit"
            raise RefusedError(408, "body", f"{size} bytes so far", rule, reason="time") from None
        finally:
            self._reading -= 1

    def _too_large(self, size: int) -> RefusedError:
        return RefusedError(413, "body", f"{size} bytes", f"at most {self._options.max_bytes} bytes", reason="size")


def path_label(path: str) -> str:
    """Return the label that metrics have for a path: one of a few, whatever clients send."""
    if path.startswith("/v1/examples/"):
        return "/v1/examples/{i}"
    if path.startswith(FREE_FOLDER):
        return f"{FREE_FOLDER}{{name}}"
    return path if path in _KNOWN_PATHS else "other"


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def unsent_response() -> Response:
    """Return the response to a client that has gone, which the middleware does not send."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def _header(scope: Scope, name: bytes) -> bytes | None:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    return next((value for key, value in headers if key == name), None)
