"""What stands before the routes: the token or the Host, the bound on what is taken, size and time of a body.

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

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ple_rec.serve.http.errors import RefusedError, internal
from ple_rec.serve.http.log import failed, say
from ple_rec.serve.http.metrics import Metrics
from ple_rec.serve.http.options import Options

TAKEN: Final = "ple_rec.taken"  # key of `Taken` in the scope
MODEL_PATHS: Final = ("/v1/rank", "/v1/score")
FREE_PATHS: Final = ("/healthz", "/readyz", "/")  # need no token; nor does what lies below:
FREE_FOLDER: Final = "/static/"
GONE: Final = 499  # of the metric: the client did not wait
_KNOWN = (*MODEL_PATHS, *FREE_PATHS, "/metrics", "/openapi.json", "/v1/model", "/v1/examples")
_ALWAYS = 2  # requests that are taken however long they take: one is computed while the other is read
_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::[0-9]*)?")  # a name or address, and perhaps a port


@dataclass(frozen=True, slots=True)
class Taken:
    """A request of the model whose body has been read.

    Args:
        body: All of it.
        deadline: By `time.monotonic`.
    """

    body: bytes
    deadline: float


class Gate:
    """The outermost ASGI application.

    Args:
        app: The routes.
        options: Token, bounds.
        metrics: Told of every request.
    """

    def __init__(self, app: ASGIApp, options: Options, metrics: Metrics) -> None:
        self.taken = 0
        self.stopping = False
        self.seconds_each: Callable[[], float] = lambda: 0.0  # recent mean of a request of the model
        self._app, self._options, self._metrics = app, options, metrics
        self._expected = None if options.token is None else options.token.encode()
        self._reading = 0  # requests whose body is on its way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            if status != GONE:
                await send(message)

        path: str = scope["path"]
        try:
            self._check_host(scope)
            self._check_token(scope, path)
            if path in MODEL_PATHS and scope["method"] == "POST":
                await self._model(scope, receive, watched)
            elif scope["method"] == "HEAD":  # as GET; uvicorn, whose scope still says HEAD, sends no body
                await self._app(dict(scope) | {"method": "GET"}, receive, watched)
            else:
                await self._app(scope, receive, watched)
        except RefusedError as refusal:
            if refusal.reason is not None:
                self._metrics.refused.labels(refusal.reason).inc()
            await refusal.response()(scope, receive, watched)
        except _GoneError:
            status = GONE
        except Exception as error:
            failed("request_failed", error, path=path)
            if not status:
                await internal().response()(scope, receive, watched)
        self._tell(scope, label(path), status, time.perf_counter() - begun)

    def _tell(self, scope: Scope, place: str, status: int, seconds: float) -> None:
        if status == GONE:
            self._metrics.gone.inc()
        else:
            self._metrics.requests.labels(place, str(status)).inc()
        if status == 200:
            self._metrics.seconds.labels(place).observe(seconds)
        if self._options.access_log:
            client = scope["client"][0] if scope.get("client") else "-"
            fields = {"method": scope["method"], "path": scope["path"], "status": status, "ms": 1000 * seconds}
            say("request", client=client, **fields)

    def _check_host(self, scope: Scope) -> None:
        """Of all paths; a request without one is of no browser."""
        if not self._options.names_checked or (given := _header(scope, b"host")) is None:
            return
        host = given.decode("latin-1").strip().lower()
        found = _HOST.fullmatch(host)
        name = "" if found is None else found[1] or found[2] or ""
        if name not in ("localhost", self._options.host.lower()) and not _loopback(name):
            rule = "without a token only localhost, loopback addresses and --host's own value are answered"
            fix = "ask by one of these, or start the server with --token-file FILE or --no-token"
            raise RefusedError(421, "Host", host, f"{rule}; {fix}", reason="host")

    def _check_token(self, scope: Scope, path: str) -> None:
        if self._expected is None or path in FREE_PATHS or path.startswith(FREE_FOLDER):
            return
        given = _header(scope, b"authorization")
        scheme, _, token = (given or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._expected):
            shown = "none" if given is None else "another"
            headers = {"WWW-Authenticate": "Bearer"}
            raise RefusedError(
                401, "Authorization", shown, "it has to be Bearer and the token", reason="token", headers=headers
            )

    async def _model(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a request of the model, if there is room."""
        deadline = time.monotonic() + self._options.time_limit
        self._check_room()
        self._check_head(scope)
        self.taken += 1
        done = False

        def end() -> None:
            nonlocal done
            self.taken -= not done
            done = True

        async def ending(message: Message) -> None:
            end()  # what is left is to send the answer, for which a client may take its time
            await send(message)

        try:
            scope[TAKEN] = Taken(await self._body(receive), deadline)
            await self._app(scope, receive, ending)
        finally:
            end()

    def _check_room(self) -> None:
        if self.stopping:
            headers = {"Retry-After": "1", "Connection": "close"}
            raise RefusedError(
                503, "server", "stopping", "it takes no more requests", reason="stopping", headers=headers
            )
        if self.taken >= self._options.queue:
            raise self._full(f"{self._options.queue} requests wait already")
        waiting = self._waiting()
        expected = waiting * self.seconds_each()
        if waiting >= _ALWAYS and expected > self._options.max_wait:
            raise self._full(f"they take some {1000 * expected:.0f} ms, more than {1000 * self._options.max_wait:.0f}")

    def _waiting(self) -> int:
        """Requests whose body is there: the others may take their time and none of the model's."""
        return self.taken - self._reading

    def _full(self, rule: str) -> RefusedError:
        headers = {"Retry-After": str(max(1, math.ceil(self._waiting() * self.seconds_each())))}
        return RefusedError(503, "queue", f"{self.taken} requests", rule, reason="queue", headers=headers)

    def _check_head(self, scope: Scope) -> None:
        kind = (_header(scope, b"content-type") or b"").split(b";")[0].strip().lower()
        if kind != b"application/json":
            raise RefusedError(415, "Content-Type", kind.decode("latin-1"), "it has to be application/json")
        if (coding := _header(scope, b"content-encoding")) not in (None, b"identity"):
            raise RefusedError(415, "Content-Encoding", (coding or b"").decode("latin-1"), "a body is not compressed")
        length = _header(scope, b"content-length")
        if length is not None and int(length) > self._options.max_bytes:  # digits, as the parser has seen to
            raise self._too_large(int(length))

    async def _body(self, receive: Receive) -> bytes:
        """All of it, within its bounds."""
        chunks, size = list[bytes](), 0
        self._reading += 1
        try:
            async with asyncio.timeout(self._options.time_limit):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _GoneError
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


class _GoneError(Exception):
    """The client has gone."""


def label(path: str) -> str:
    """Of the metrics: few, whatever is asked for."""
    if path.startswith("/v1/examples/"):
        return "/v1/examples/{i}"
    if path.startswith(FREE_FOLDER):
        return f"{FREE_FOLDER}{{name}}"
    return path if path in _KNOWN else "other"


def _loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def gone() -> Response:
    """The answer that nobody waits for; the gate does not send it."""
    return Response(status_code=GONE)


def _header(scope: Scope, name: bytes) -> bytes | None:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    return next((value for key, value in headers if key == name), None)
