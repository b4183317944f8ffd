"""Routes of the server: rankings and scores, the model's description, health probes, metrics, OpenAPI and the page.

`application` returns the ASGI application that `server.py` runs.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ple_rec.config.words import spelling_hint
from ple_rec.inference.ranker import Ranker
from ple_rec.inference.side_table import SideTable
from ple_rec.ranking.fusion import exponent_array
from ple_rec.serving.http.access import AccessMiddleware, unsent_response
from ple_rec.serving.http.admission import Admission
from ple_rec.serving.http.batching import Batcher, Kind
from ple_rec.serving.http.errors import RefusedError, internal_error
from ple_rec.serving.http.metrics import ServerMetrics
from ple_rec.serving.http.openapi import (
    ExampleList,
    access_responses,
    error_responses,
    model_route,
    openapi_document,
)
from ple_rec.serving.http.options import ServerOptions
from ple_rec.serving.http.pages import page_files

_MAX_SAFE_INTEGER = 2**53 - 1  # Number.MAX_SAFE_INTEGER of JavaScript.
_NO_EXAMPLES = "this model has no examples; `ple-rec export --examples N` adds the rows of N held-out users"
# Number of characters of an unknown path that are compared with the known paths.
_LONGEST_PATH = 80
_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def application(batcher: Batcher, admission: Admission, options: ServerOptions, metrics: ServerMetrics) -> ASGIApp:
    """Return the ASGI application of a server.

    Args:
        batcher: Batcher with the model.
        admission: Admission of requests to the model.
        options: Options of the server.
        metrics: Metrics that count every request.
    """
    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=access_responses(options),
    )
    metrics.set_sources(lambda: admission.admitted, lambda: float(not admission.stopping))
    _add_requests(app, batcher, admission)
    _add_model(app, batcher, options)
    _add_probes(app, admission, metrics)
    _add_pages(app, batcher, options)
    _add_errors(app, metrics)
    return AccessMiddleware(app, options, metrics)


def _add_requests(app: FastAPI, batcher: Batcher, admission: Admission) -> None:
    ranked = "The candidates in the order of their scores, best first."
    scored = "Predictions and score of each row, in the order of the request."

    @app.post("/v1/rank", summary="Rank candidates for a user", **model_route("RankRequest", "Ranked", ranked))
    async def rank(request: Request) -> Response:
        return await _answer(batcher, admission, "rank", request)

    @app.post("/v1/score", summary="Score rows", **model_route("ScoreRequest", "Scored", scored))
    async def score(request: Request) -> Response:
        return await _answer(batcher, admission, "score", request)


async def _answer(batcher: Batcher, admission: Admission, kind: Kind, request: Request) -> Response:
    """Admit a request to the model, read its body, and return the answer; stop if the client disconnects before."""
    try:
        async with admission.admit(request) as body:
            answer = asyncio.ensure_future(batcher.answer(kind, body))
            disconnect = asyncio.ensure_future(request.receive())
            try:
                await asyncio.wait((answer, disconnect), return_when=asyncio.FIRST_COMPLETED)
                if answer.done():
                    status, content = answer.result()
                    return Response(content, status, media_type="application/json")
            finally:
                answer.cancel()
                disconnect.cancel()
    except ClientDisconnect:
        pass
    return unsent_response()


def _add_model(app: FastAPI, batcher: Batcher, options: ServerOptions) -> None:
    """Add the routes of the model's description and of its examples, which are requests of held-out users."""
    described = (
        "Name, version, features, tasks, exponents, model card, side tables in memory with the age of their rates, and "
        "the precision of the dense layers: that of the export (`asked`) and that of this server (`used`)."
    )
    listed = "Users whose rows were not trained on; each is an example of a request."
    held_out = "A request of /v1/rank and the labels of its items."

    @app.get("/v1/model", summary="The model", response_description=described, response_model=dict[str, Any])
    async def model() -> Response:
        return _json(_describe(batcher.ranker, options.rates_max_age))

    @app.get("/v1/examples", summary="Held-out users", response_description=listed, response_model=ExampleList)
    async def examples() -> Response:
        ranker = batcher.ranker
        return _json({"version": ranker.version, "examples": ranker.example_summaries})

    @app.get(
        "/v1/examples/{i}",
        summary="A held-out user",
        response_description=held_out,
        response_model=dict[str, Any],
        responses=error_responses(404, 422),
    )
    async def example(i: int) -> Response:
        users = batcher.ranker.examples
        if not 0 <= i < len(users):
            raise RefusedError(404, "i", i, f"examples are 0 to {len(users) - 1}" if users else _NO_EXAMPLES)
        return _json(_large_integers_as_text(users[i]))


def _add_probes(app: FastAPI, admission: Admission, metrics: ServerMetrics) -> None:
    """Add the health probes, and the metrics in the text format of Prometheus."""

    @app.get(
        "/healthz",
        summary="Liveness probe",
        response_description="The process is alive.",
        response_model=dict[str, str],
    )
    async def healthz() -> Response:
        return _json({"status": "alive"})

    @app.get(
        "/readyz",
        summary="Readiness probe",
        response_description="The server admits requests.",
        response_model=dict[str, str],
        responses=error_responses(503),
    )
    async def readyz() -> Response:
        if admission.stopping:
            raise RefusedError(503, "server", "stopping", "it admits no more requests", headers={"Retry-After": "1"})
        return _json({"status": "ready"})

    text = {"description": "The text format of Prometheus.", "content": {"text/plain": {"schema": {"type": "string"}}}}

    @app.get("/metrics", summary="Metrics", responses={200: text})
    async def prometheus() -> Response:
        return Response(metrics.text(), headers={"Content-Type": _TEXT})


def _add_pages(app: FastAPI, batcher: Batcher, options: ServerOptions) -> None:
    """Add the routes of the OpenAPI document and of the page."""

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return _json(openapi_document(app, batcher.ranker, options))

    files = page_files()

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return _file("index.html", request)

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str, request: Request) -> Response:
        return _file(name, request)

    def _file(name: str, request: Request) -> Response:
        if name not in files:
            raise RefusedError(404, "path", request.url.path, "there is no such page")
        return files[name].response(request.headers.get("if-none-match"))


def _add_errors(app: FastAPI, metrics: ServerMetrics) -> None:
    """Add handlers that answer every error with the same form of body, `{"error": {...}}`."""
    paths = [route.path for route in app.routes if isinstance(route, Route)]

    @app.exception_handler(HTTPException)
    async def answer_routing_error(request: Request, error: HTTPException) -> Response:
        place, value = ("method", request.method) if error.status_code == 405 else ("path", request.url.path)
        headers = dict(error.headers or {})
        # The middleware answers HEAD by the route of GET.
        if headers.get("Allow") == "GET":
            headers["Allow"] = "GET, HEAD"
        message = str(error.detail)
        if "Allow" in headers:
            message = f"methods of this path: {headers['Allow']}"
        elif error.status_code == 404:
            suggestion = spelling_hint(value[:_LONGEST_PATH], paths)
            message = f"no such path; {f'{suggestion} ' * bool(suggestion)}paths: {', '.join(paths)}"
        return RefusedError(error.status_code, place, value, message, headers=headers).response()

    @app.exception_handler(RequestValidationError)
    async def answer_parameter_error(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return RefusedError(422, str(first["loc"][-1]), first["input"], first["msg"]).response()

    @app.exception_handler(RefusedError)
    async def answer_refusal(request: Request, error: RefusedError) -> Response:
        if error.reason is not None:
            metrics.refused.labels(error.reason).inc()
        return error.response()

    # FastAPI raises the error again after this answer, so that the middleware logs it.
    @app.exception_handler(Exception)
    async def answer_bug(request: Request, error: Exception) -> Response:
        return internal_error().response()


def _describe(ranker: Ranker, rates_max_age: int) -> dict[str, Any]:
    """Return the body of `/v1/model`; rates that are more than `rates_max_age` days old are marked."""
    tasks = [task.model_dump() for task in ranker.signature.tasks]
    return {
        "name": ranker.name,
        "version": ranker.version,
        "signature": ranker.signature.describe_inputs(ranker.table_rows) | {"tasks": tasks},
        "raw": None if ranker.raw_form is None else ranker.raw_form.describe(ranker.raw_columns),
        "dense": {"asked": ranker.exported_precision, "used": ranker.dense_precision},
        "side_tables": [_describe_table(table, rates_max_age) for table in ranker.side_tables.values()],
        "exponents": dict(zip(ranker.factors, exponent_array(ranker.fusion).tolist(), strict=True)),
        "card": ranker.description.get("card", {}),
    }


def _describe_table(table: SideTable, rates_max_age: int) -> dict[str, Any]:
    age = table.info.age_days(time.time())
    return table.describe() | ({} if age is None else {"age_days": age, "is_old": age > rates_max_age})


def _large_integers_as_text(value: Any) -> Any:
    """Return a JSON value in which integers that JavaScript would round are texts."""
    if isinstance(value, dict):
        return {name: _large_integers_as_text(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_large_integers_as_text(each) for each in value]
    return str(value) if isinstance(value, int) and abs(value) > _MAX_SAFE_INTEGER else value


def _json(document: object) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
