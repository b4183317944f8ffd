"""OpenAPI document, which FastAPI writes from the routes, with the bodies and answers of the served model."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from ple_rec.inference.ranker import Ranker
from ple_rec.serving.http.errors import Error
from ple_rec.serving.http.options import ServerOptions

_ERRORS = {
    400: "the body is no JSON; NaN and Infinity are none",
    401: "the token is missing or another",
    404: "there is no such example",
    408: "the body did not arrive in time",
    413: "the body is too large, or has too many values",
    415: "the body is not application/json, or compressed",
    421: "the Host is no name of this machine, and there is no token",
    422: "a field has a value that it cannot have, or is not one of the model's",
    500: "a bug, which the server's log tells of",
    503: "too many requests wait, or the server stops; Retry-After says when to try again",
    504: "the time limit passed",
}


class ExampleSummary(BaseModel):
    """A held-out user, or some held-out rows."""

    name: str
    rows: int


class ExampleList(BaseModel):
    """Body of the answer of /v1/examples."""

    version: str = Field(description="of the model that they came with")
    examples: list[ExampleSummary]


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the entries of FastAPI's `responses` for the errors of a route.

    Args:
        statuses: HTTP statuses.
    """
    return {status: {"model": Error, "description": _ERRORS[status]} for status in statuses}


def admission_responses(options: ServerOptions) -> dict[int | str, dict[str, Any]]:
    """Return the entries of FastAPI's `responses` for requests that the middleware refuses on every route.

    Args:
        options: Options of the server.
    """
    if options.token is not None:
        return error_responses(401)
    return error_responses(421) if options.checks_host else {}


def model_route(body: str, answer: str, description: str) -> dict[str, Any]:
    """Return the keyword arguments of a route whose body and answer have schemas of the model.

    Args:
        body: Name of the body's schema.
        answer: Name of the answer's schema.
        description: Description of the answer.
    """
    response = {"description": description, "content": _json_content(answer)}
    return {
        "openapi_extra": {"requestBody": {"required": True, "content": _json_content(body)}},
        "responses": {200: response} | error_responses(400, 408, 413, 415, 422, 500, 503, 504),
    }


def openapi_document(app: FastAPI, ranker: Ranker, options: ServerOptions) -> dict[str, Any]:
    """Return the OpenAPI document of the served version.

    Args:
        app: Application with the routes.
        ranker: Model whose features, tasks and answers are described.
        options: Options of the server.
    """
    document = dict(app.openapi())
    document["info"] = {
        "title": f"ple-rec serve: {ranker.name}",
        "version": ranker.version,
        "description": f"Ranks candidates by {ranker.name} {ranker.version}. Missing features may be left out or null; "
        "ids that the model does not know are no error.",
    }
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"] = dict(sorted(operation["responses"].items()))
    document["components"] = {"schemas": document["components"]["schemas"] | ranker.schemas()}
    if options.token is not None:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _json_content(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
