"""The interface in OpenAPI: routes with all answers that they have, bodies by the schemas of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from ple_rec.serve.http.batching import Kind
from ple_rec.serve.http.options import Options
from ple_rec.serve.ranker import Ranker

_NAMES = {"rank": "RankRequest", "ranked": "Ranked", "score": "ScoreRequest", "scored": "Scored"}
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
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["field", "value", "message"],
            "properties": {
                "field": {
                    "type": "string",
                    "description": "e.g. items[3].video_id, items.video_id[3], or a header",
                },
                "value": {"type": "string", "description": "what was found there"},
                "message": {"type": "string", "description": "what is allowed"},
            },
        }
    },
}
_EXAMPLES = {
    "type": "object",
    "required": ["examples"],
    "properties": {
        "version": {"type": "string", "description": "of the model that they came with"},
        "examples": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "rows"],
                "properties": {"name": {"type": "string"}, "rows": {"type": "integer"}},
            },
        },
    },
}


def model_route(kind: Kind) -> dict[str, Any]:
    """Of /v1/rank and /v1/score."""
    words = {
        "rank": ("Rank candidates for a user", "The candidates by fused score, best first."),
        "score": ("Score rows", "Predictions and fused score of each row, in the order given."),
    }[kind]
    body = {"required": True, "content": {"application/json": {"schema": _reference(_NAMES[kind])}}}
    answers = {200: _answer(words[1], _reference(_NAMES[f"{kind}ed" if kind == "rank" else "scored"]))}
    return {
        "summary": words[0],
        "openapi_extra": {"requestBody": body},
        "responses": answers | _errors(400, 408, 413, 415, 422, 500, 503, 504),
    }


def model() -> dict[str, Any]:
    """Of /v1/model."""
    told = "Name, version, features, tasks, exponents, card; and of `dense` layers the precision, as asked and as used."
    return _get("The model", told, {"type": "object"})


def examples() -> dict[str, Any]:
    """Of /v1/examples."""
    return _get("Held-out users", "Users of the logs that were not trained on, each a request to try.", _EXAMPLES)


def example() -> dict[str, Any]:
    """Of /v1/examples/{i}."""
    return _get("A held-out user", "A request of /v1/rank and the labels of its items.", {"type": "object"}, 404, 422)


def health() -> dict[str, Any]:
    """Of /healthz."""
    return _get("Whether the process lives", "It does.", {"type": "object"})


def ready() -> dict[str, Any]:
    """Of /readyz."""
    return _get("Whether requests are taken", "They are.", {"type": "object"}, 503)


def metrics() -> dict[str, Any]:
    """Of /metrics."""
    content = {"text/plain": {"schema": {"type": "string"}}}
    answer = {"description": "The text format of Prometheus.", "content": content}
    return {"summary": "Metrics", "responses": {200: answer}}


def openapi(app: FastAPI, ranker: Ranker, options: Options) -> dict[str, Any]:
    """The whole document for the version that is served.

    Args:
        app: With the routes.
        ranker: Whose features, tasks and answers are described.
        options: Whether there is a token, or hosts are checked.
    """
    whole = dict(app.openapi())
    whole["info"] = {
        "title": f"ple-rec serve: {ranker.name}",
        "version": ranker.version,
        "description": f"Ranks candidates by {ranker.name} {ranker.version}. Missing features may be left out or null; "
        "ids that the model does not know are no error.",
    }
    whole["paths"] = {path: _behind(methods, options) for path, methods in whole["paths"].items()}
    whole["components"] = {"schemas": ranker.schemas() | {"Error": _ERROR}}
    if options.token is not None:
        whole["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return whole


def _behind(methods: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """A path's operations, with what the gate asks of them."""
    more: dict[str, Any] = {} if options.token is None else {"security": [{"token": []}]}
    statuses = (401,) if options.token is not None else (421,) if options.names_checked else ()
    refused = {str(status): answer for status, answer in _errors(*statuses).items()}

    def answers(of: Mapping[str, Any]) -> dict[str, Any]:
        return dict(sorted((of["responses"] | refused).items()))

    return {method: of | more | {"responses": answers(of)} for method, of in methods.items()}


def _get(summary: str, description: str, schema: Mapping[str, Any], *errors: int) -> dict[str, Any]:
    return {"summary": summary, "responses": {200: _answer(description, schema)} | _errors(*errors)}


def _errors(*statuses: int) -> dict[int, dict[str, Any]]:
    return {status: _answer(_ERRORS[status], _reference("Error")) for status in statuses}


def _answer(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
