"""Answers that refuse a request: one shape of body, which names the field, the value and the rule."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, Field
from starlette.responses import Response

from ple_rec.inference.request_error import shorten


class FieldError(BaseModel):
    """What is wrong with a request."""

    field: str = Field(description="e.g. items[3].video_id, items.video_id[3], or a header")
    value: str = Field(description="what was found there")
    message: str = Field(description="what is allowed")


class Error(BaseModel):
    """Body of an answer that refuses a request."""

    error: FieldError


class RefusedError(Exception):
    """A request that is refused, or fails.

    Args:
        status: Status of HTTP.
        field: Name of what is wrong: a field of the body, a header, the path.
        value: Value that stands there.
        message: Rule that the value breaks.
        reason: Label of the metric that counts refusals; None where it does not count this one.
        headers: Headers of the answer.
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
        """Return the body of the answer."""
        return error_body(self.field, self.value, self.message)

    def response(self) -> Response:
        """Return the answer."""
        return Response(self.body(), self.status, self.headers, "application/json")


def error_body(field: str, value: object, message: str) -> bytes:
    """Return `{"error": {"field": ..., "value": ..., "message": ...}}`; a long value is cut."""
    text = shorten(str(value)).encode(errors="replace").decode()
    return Error(error=FieldError(field=field, value=text, message=message)).model_dump_json().encode()


def internal_error() -> RefusedError:
    """Return the answer to a request that met a bug."""
    return RefusedError(500, "server", "", "an internal error, which the server's log tells of")
