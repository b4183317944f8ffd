"""Answers that refuse a request, with a body that names the field, the value and the rule."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, Field
from starlette.responses import Response

from ple_rec.inference.request_error import shorten


class FieldError(BaseModel):
    """Error of one field of a request."""

    field: str = Field(description="e.g. items[3].video_id, items.video_id[3], or a header")
    value: str = Field(description="value of the field, shortened")
    message: str = Field(description="rule that the value breaks")


class Error(BaseModel):
    """Body of an answer that refuses a request."""

    error: FieldError


class RefusedError(Exception):
    """Error of a request that is refused or has failed.

    Args:
        status: HTTP status.
        field: Field of the body, header or other part of the request that is wrong.
        value: Value of that field.
        message: Rule that the value breaks.
        reason: Label of the metric that counts refusals; None if this refusal is not counted.
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
    """Return `{"error": {"field": ..., "value": ..., "message": ...}}`, with a long value shortened."""
    text = shorten(str(value)).encode(errors="replace").decode()
    return Error(error=FieldError(field=field, value=text, message=message)).model_dump_json().encode()


def internal_error() -> RefusedError:
    """Return the error for a request that failed because of a bug."""
    return RefusedError(500, "server", "", "an internal error; the server's log has its traceback")
