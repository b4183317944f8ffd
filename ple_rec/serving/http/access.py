"""Middleware before the routes: it checks the Host and the token of a request, and counts and logs the answer.

The token is checked if the server has one, and the Host if it has none and was not started with --no-token.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import time
from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ple_rec.serving.http.errors import RefusedError, internal_error
from ple_rec.serving.http.metrics import ServerMetrics, log_error, log_info
from ple_rec.serving.http.options import ServerOptions

# These paths, and those below `FREE_FOLDER`, need no token.
FREE_PATHS: Final = ("/healthz", "/readyz", "/")
FREE_FOLDER: Final = "/static/"
# Status that is recorded, but not sent, if the client has closed the connection; nginx uses the same number.
CLIENT_CLOSED_REQUEST: Final = 499
_KNOWN_PATHS = ("/v1/rank", "/v1/score", *FREE_PATHS, "/metrics", "/openapi.json", "/v1/model", "/v1/examples")
# Name or address, with an optional port.
_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::[0-9]*)?")


class AccessMiddleware:
    """Outermost ASGI application, which refuses requests with a wrong Host or token and records every answer.

    Args:
        app: Application with the routes.
        options: Options of the server.
        metrics: Metrics that count every request.
    """

    def __init__(self, app: ASGIApp, options: ServerOptions, metrics: ServerMetrics) -> None:
        self._app, self._options, self._metrics = app, options, metrics
        self._token = None if options.token is None else options.token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def send_and_record(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            if status != CLIENT_CLOSED_REQUEST:
                await send(message)

        path: str = scope["path"]
        try:
            self._check_host(scope)
            self._check_token(scope, path)
            if scope["method"] == "HEAD":
                # The routes answer a GET; uvicorn still sees HEAD in its own scope, and sends no body.
                await self._app(dict(scope) | {"method": "GET"}, receive, send_and_record)
            else:
                await self._app(scope, receive, send_and_record)
        except RefusedError as refusal:
            if refusal.reason is not None:
                self._metrics.refused.labels(refusal.reason).inc()
            await refusal.response()(scope, receive, send_and_record)
        except Exception as error:  # A bug: the client gets status 500, and the server goes on.
            log_error("request_failed", error, path=path)
            if not status:
                await internal_error().response()(scope, receive, send_and_record)
        self._record(scope, path_label(path), status, time.perf_counter() - started)

    def _record(self, scope: Scope, label: str, status: int, seconds: float) -> None:
        if status == CLIENT_CLOSED_REQUEST:
            self._metrics.disconnected.inc()
        else:
            self._metrics.requests.labels(label, str(status)).inc()
        if status == 200:
            self._metrics.seconds.labels(label).observe(seconds)
        if self._options.access_log:
            client = scope["client"][0] if scope.get("client") else "-"
            fields = {"method": scope["method"], "path": scope["path"], "status": status, "ms": 1000 * seconds}
            log_info("request", client=client, **fields)

    def _check_host(self, scope: Scope) -> None:
        """Refuse a Host other than localhost, a loopback address or the server's address, if the Host is checked.

        A request without a Host is not from a browser, and passes.
        """
        if not self._options.checks_host or (header := _header(scope, b"host")) is None:
            return
        host = header.decode("latin-1").strip().lower()
        match = _HOST.fullmatch(host)
        name = "" if match is None else match[1] or match[2] or ""
        if name not in ("localhost", self._options.host.lower()) and not _is_loopback(name):
            rule = "without a token, the Host must be localhost, a loopback address or the value of --host"
            fix = "send the request to one of these, or start the server with --token-file FILE or --no-token"
            raise RefusedError(421, "Host", host, f"{rule}; {fix}", reason="host")

    def _check_token(self, scope: Scope, path: str) -> None:
        if self._token is None or path in FREE_PATHS or path.startswith(FREE_FOLDER):
            return
        header = _header(scope, b"authorization")
        scheme, _, token = (header or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
            value = "none" if header is None else "a wrong token"
            headers = {"WWW-Authenticate": "Bearer"}
            raise RefusedError(
                401, "Authorization", value, "it must be `Bearer TOKEN`", reason="token", headers=headers
            )


def path_label(path: str) -> str:
    """Return the label of a path in metrics, one of a fixed set, so that clients cannot create new series."""
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
    """Return the response for a closed connection, which the middleware records and does not send."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def _header(scope: Scope, name: bytes) -> bytes | None:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    return next((value for key, value in headers if key == name), None)
