"""OpenAPI document: FastAPI derives it from the routes, and this module adds the schemas of the served model.

The schemas of the bodies and answers of `/v1/rank` and `/v1/score` depend on the model's features and tasks.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from ple_rec.inference.ranker import Ranker
from ple_rec.serving.http.errors import Error
from ple_rec.serving.http.options import ServerOptions

_ERRORS = {
    400: "the body is not JSON; NaN and Infinity are not JSON either",
    401: "the token is missing or wrong",
    404: "the example does not exist",
    408: "the body did not arrive in time",
    413: "the body is too large, or has too many values",
    415: "the body is not application/json, or compressed",
    421: "the Host is not a name of this machine, and the server has no token",
    422: "a field has a wrong value, or is not a field of this model",
    500: "an internal error; the server's log has its traceback",
    503: "too many requests wait, or the server stops; the header Retry-After has the seconds until the next attempt",
    504: "the time limit passed",
}


class ExampleSummary(BaseModel):
    """A request of the model's examples: the rows of a held-out user, or some held-out rows."""

    name: str
    rows: int


class ExampleList(BaseModel):
    """Body of the answer of /v1/examples."""

    version: str = Field(description="version of the model that has these examples")
    examples: list[ExampleSummary]


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the entries of FastAPI's `responses` for the errors of a route.

    Args:
        statuses: HTTP statuses.
    """
    return {status: {"model": Error, "description": _ERRORS[status]} for status in statuses}


def access_responses(options: ServerOptions) -> dict[int | str, dict[str, Any]]:
    """Return the entries of FastAPI's `responses` for requests that the middleware refuses before they reach a route.

    It refuses a wrong token if the server has one, else a wrong Host if the server checks it.

    Args:
        options: Options of the server.
    """
    if options.token is not None:
        return error_responses(401)
    return error_responses(421) if options.checks_host else {}


def model_route(body: str, answer: str, description: str) -> dict[str, Any]:
    """Return FastAPI's keyword arguments for a route whose body and answer have schemas of the model.

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
        "ids that the model does not know are allowed.",
    }
    schemas = ranker.schemas()
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"] = dict(sorted(operation["responses"].items()))
    for path, name in (("/v1/rank", "RankRequest"), ("/v1/score", "ScoreRequest")):
        forms = [form for form in (name, f"Raw{name}") if form in schemas]
        document["paths"][path]["post"]["requestBody"]["content"] = _json_content(*forms)
    document["components"] = {"schemas": document["components"]["schemas"] | schemas}
    if options.token is not None:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _json_content(*schemas: str) -> dict[str, Any]:
    """Return the content of a body that has one of some schemas."""
    references = [{"$ref": f"#/components/schemas/{schema}"} for schema in schemas]
    return {"application/json": {"schema": references[0] if len(references) == 1 else {"oneOf": references}}}
