"""The routes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from ple_rec.config.words import meant
from ple_rec.ranking.fusion import exponents_of
from ple_rec.serve.http import describe
from ple_rec.serve.http.admission import MODEL_PATHS, TAKEN, Gate, Taken, gone
from ple_rec.serve.http.batching import Batcher, Kind
from ple_rec.serve.http.errors import RefusedError, internal
from ple_rec.serve.http.metrics import Metrics
from ple_rec.serve.http.options import Options
from ple_rec.serve.http.pages import page_files
from ple_rec.serve.ranker import Ranker

_EXACT = 2**53 - 1  # Number.MAX_SAFE_INTEGER
_NO_EXAMPLES = "this model came without rows of users; `ple-rec export --examples N` adds those of N held-out ones"
_LONGEST_PATH = 80  # characters of a path that are compared with those there are
_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def application(batcher: Batcher, options: Options, metrics: Metrics) -> Gate:
    """Return the gate and the routes of a server.

    Args:
        batcher: Batcher that has the model.
        options: Options of the server.
        metrics: Metrics that are told of everything.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    gate = Gate(app, options, metrics)
    gate.seconds_each = lambda: batcher.seconds_each
    metrics.watch(lambda: gate.taken, lambda: float(not gate.stopping))
    for place, kind in zip(MODEL_PATHS, ("rank", "score"), strict=True):
        app.post(place, **describe.model_route(kind))(_model(kind, batcher))  # type: ignore[arg-type]
    _add_model(app, batcher)
    _add_probes(app, gate, metrics)
    _add_pages(app, batcher, options)
    _add_errors(app, metrics)
    return gate


def _model(kind: Kind, batcher: Batcher) -> Callable[..., Any]:
    """Return the endpoint of a kind of request."""

    async def endpoint(request: Request) -> Response:
        taken: Taken = request.scope[TAKEN]
        answer = asyncio.ensure_future(batcher.answer(kind, taken.body))
        left = asyncio.ensure_future(request.receive())  # comes when the client goes
        try:
            wait = max(0.0, taken.deadline - time.monotonic())
            await asyncio.wait((answer, left), timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                status, body = answer.result()
                return Response(body, status, media_type="application/json")
            if left.done():
                return gone()
        finally:
            answer.cancel()
            left.cancel()
        raise RefusedError(504, "time", "", "the time limit passed before there was an answer", reason="time")

    endpoint.__name__ = kind
    return endpoint


def _add_model(app: FastAPI, batcher: Batcher) -> None:
    """What is served, and held-out users to try it with."""

    @app.get("/v1/model", **describe.model())
    async def model() -> Response:
        return _json(_described(batcher.ranker))

    @app.get("/v1/examples", **describe.examples())
    async def examples() -> Response:
        ranker = batcher.ranker
        return _json({"version": ranker.version, "examples": ranker.listed_examples})

    @app.get("/v1/examples/{i}", **describe.example())
    async def example(i: int) -> Response:
        found = batcher.ranker.examples
        if not 0 <= i < len(found):
            raise RefusedError(404, "i", i, f"there are examples 0 to {len(found) - 1}" if found else _NO_EXAMPLES)
        return _json(_exact(found[i]))


def _add_probes(app: FastAPI, gate: Gate, metrics: Metrics) -> None:
    @app.get("/healthz", **describe.health())
    async def healthz() -> Response:
        return _json({"status": "alive"})

    @app.get("/readyz", **describe.ready())
    async def readyz() -> Response:
        if gate.stopping:
            raise RefusedError(503, "server", "stopping", "it takes no more requests", headers={"Retry-After": "1"})
        return _json({"status": "ready"})

    @app.get("/metrics", **describe.metrics())
    async def prometheus() -> Response:
        return Response(metrics.text(), headers={"Content-Type": _TEXT})


def _add_pages(app: FastAPI, batcher: Batcher, options: Options) -> None:
    """Add OpenAPI, and the page of the ranked feed."""

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return _json(describe.openapi(app, batcher.ranker, options))

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


def _add_errors(app: FastAPI, metrics: Metrics) -> None:
    """Every error has the one shape."""
    paths = [route.path for route in app.routes if isinstance(route, Route)]

    @app.exception_handler(HTTPException)
    async def of_routing(request: Request, error: HTTPException) -> Response:
        place, value = ("method", request.method) if error.status_code == 405 else ("path", request.url.path)
        headers = dict(error.headers or {})
        if headers.get("Allow") == "GET":
            headers["Allow"] = "GET, HEAD"  # by the gate
        message = str(error.detail)
        if "Allow" in headers:
            message = f"methods of this path: {headers['Allow']}"
        elif error.status_code == 404:
            near = meant(value[:_LONGEST_PATH], paths)
            message = f"no such path; {f'{near} ' * bool(near)}paths: {', '.join(paths)}"
        return RefusedError(error.status_code, place, value, message, headers=headers).response()

    @app.exception_handler(RequestValidationError)
    async def of_parameter(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return RefusedError(422, str(first["loc"][-1]), first["input"], first["msg"]).response()

    @app.exception_handler(RefusedError)
    async def of_route(request: Request, error: RefusedError) -> Response:
        if error.reason is not None:
            metrics.refused.labels(error.reason).inc()
        return error.response()

    @app.exception_handler(Exception)  # which is raised on, and logged by the gate
    async def of_bug(request: Request, error: Exception) -> Response:
        return internal().response()


def _described(ranker: Ranker) -> dict[str, Any]:
    """What a client has to know of a model, and its card."""
    tasks = [task.model_dump() for task in ranker.signature.tasks]
    return {
        "name": ranker.name,
        "version": ranker.version,
        "signature": ranker.signature.by_owner(ranker.table_rows) | {"tasks": tasks},
        "dense": {"asked": ranker.dense_asked, "used": ranker.dense},
        "exponents": dict(zip(ranker.factors, exponents_of(ranker.fusion).tolist(), strict=True)),
        "card": ranker.described.get("card", {}),
    }


def _exact(value: Any) -> Any:
    """A document that JavaScript too reads as it is: integers that it would round are texts."""
    if isinstance(value, dict):
        return {name: _exact(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_exact(each) for each in value]
    return str(value) if isinstance(value, int) and abs(value) > _EXACT else value


def _json(document: object) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
