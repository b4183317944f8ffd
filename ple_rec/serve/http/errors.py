"""Answers that refuse: one shape of body, which names the field, the value and the rule."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from starlette.responses import Response

from ple_rec.serve.request_error import shorten


class RefusedError(Exception):
    """A request that is not answered as it asked.

    Args:
        status: Of HTTP.
        field: What is wrong: a field of the body, a header, the path.
        value: What was found there.
        message: The rule.
        reason: For the metric of refusals; None: not one of them.
        headers: Of the answer.
    """

    def __init__(
        self,
        status: int,
        field: str,
        value: object,
        message: str,
        *,
        reason: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.field, self.value, self.message = status, field, value, message
        self.reason, self.headers = reason, dict(headers or {})

    def body(self) -> bytes:
        """As JSON."""
        return error_body(self.field, self.value, self.message)

    def response(self) -> Response:
        """The whole answer."""
        return Response(self.body(), self.status, self.headers, "application/json")


def error_body(field: str, value: object, message: str) -> bytes:
    """`{"error": {"field": ..., "value": ..., "message": ...}}`; a long value is cut."""
    error = {"field": field, "value": shorten(str(value)).encode(errors="replace").decode(), "message": message}
    return orjson.dumps({"error": error})


def internal() -> RefusedError:
    """A bug."""
    return RefusedError(500, "server", "", "an internal error, which the server's log tells of")
