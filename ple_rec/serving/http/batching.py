"""Micro-batches: one thread reads requests, and another scores all requests that are ready in one call of the model.

    read      JSON -> table rows and numbers
    score     all requests that are ready, up to a number of rows -> one call of the model -> JSON

Under a light load, each request is scored alone and at once; under a heavy load, a call has several requests. If a
client disconnects or the time limit passes, its request is cancelled; it is then scored only if its call has begun.

The size of a parsed body is limited by the number of its values, which is estimated by its commas and brackets before
it is parsed: each value becomes a Python object, so the number of values determines the time of parsing.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple

import orjson

from ple_rec.inference.ranker import Ranker
from ple_rec.inference.request import ModelRequest
from ple_rec.inference.request_error import RequestError, shorten
from ple_rec.serving.http.errors import RefusedError, error_body, internal_error
from ple_rec.serving.http.metrics import ServerMetrics, log_error

# Largest number of commas and opening brackets of a body; 2,000 items of 64 features have about as many.
MAX_SEPARATORS = 1 << 17
_NUMBER = re.compile(r"[-+.0-9eE]{1,100}")


def parse(body: bytes) -> object:
    """Return the document of a JSON body.

    Raises:
        RefusedError: The body has too many values (413), is not JSON, or has a number beyond float64 (400).
    """
    separators = sum(map(body.count, (b",", b"[", b"{")))
    if separators > MAX_SEPARATORS:
        rule = f"at most {MAX_SEPARATORS:,} are allowed, those in texts included; send fewer items at a time"
        raise RefusedError(413, "body", f"{separators:,} commas and opening brackets", rule, reason="size")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        if "infinity" in error.msg and (number := _NUMBER.match(error.doc, error.pos)) is not None:
            rule = f"a number is at most 1.8e308 ({place}); a larger integer can be sent as text"
            raise RefusedError(400, "body", shorten(number[0]), rule) from error
        raise RefusedError(400, "body", place, f"it is not JSON: {error.msg}") from error


Kind = Literal["rank", "score"]
# Weight of the last call in the moving mean of the seconds of a request.
_LAST_CALL_WEIGHT = 0.1


class Answer(NamedTuple):
    """HTTP status and JSON body of an answer."""

    status: int
    body: bytes


@dataclass(eq=False)
class PendingRequest:
    """Request that has been read and waits for its call of the model.

    Args:
        ranker: Model that has read the request, and must answer it, as another version may have other features.
        request: Request as the model has read it.
        seconds: Seconds that reading it took.
        answer: Future of the answer; it is cancelled if the client has gone.
        alone: True to score the request in a call of its own, because a call with other requests has failed.
    """

    ranker: Ranker
    request: ModelRequest
    seconds: float
    answer: asyncio.Future[Answer]
    alone: bool = False


class Batcher:
    """Queue of requests in the event loop, answered in batches.

    Args:
        ranker: Model that answers; a reload replaces it, and later requests get the new one.
        max_rows: Largest number of rows of one call, unless a single request has more.
        metrics: Metrics that count every call.

    Attributes:
        seconds_per_request: Moving mean of the seconds of a request.
    """

    def __init__(self, ranker: Ranker, max_rows: int, metrics: ServerMetrics) -> None:
        self.ranker = ranker
        self.seconds_per_request = 0.0
        self._max_rows, self._metrics = max_rows, metrics
        self._reading, self._scoring = (ThreadPoolExecutor(1, name) for name in ("read", "score"))
        self._pending: deque[PendingRequest] = deque()
        self._calls: asyncio.Task[None] | None = None

    async def answer(self, kind: Kind, body: bytes) -> Answer:
        """Read a body, wait for its call of the model, and return the answer; status 422 if a field is wrong.

        Args:
            kind: Route of the request.
            body: Bytes of the body.

        Raises:
            RefusedError: The body is not JSON, has too many values, or has a number beyond float64.
        """
        ranker, loop = self.ranker, asyncio.get_running_loop()
        try:
            request, seconds = await loop.run_in_executor(self._reading, _read, kind, body, ranker)
        except RequestError as error:
            return _to_answer(error)
        pending = PendingRequest(ranker, request, seconds, loop.create_future())
        self._pending.append(pending)
        if self._calls is None:
            self._calls = asyncio.create_task(self._run_calls())
        return await pending.answer

    async def _run_calls(self) -> None:
        """Call the model until no request waits; after an unexpected error, the requests of its call get status 500."""
        while batch := self._next_batch():
            try:
                await self._answer_batch(batch)
            except Exception as error:  # A bug: its requests get status 500, and the server goes on.
                log_error("call_failed", error)
                for pending in batch:
                    if not pending.answer.done():
                        pending.answer.set_result(Answer(500, internal_error().body()))
        self._calls = None

    def _next_batch(self) -> list[PendingRequest]:
        batch, rows = list[PendingRequest](), 0
        while self._pending:
            pending = self._pending[0]
            if pending.answer.cancelled():
                self._pending.popleft()
                continue
            rows += pending.request.rows
            if batch and (rows > self._max_rows or pending.ranker is not batch[0].ranker or pending.alone):
                break
            batch.append(self._pending.popleft())
            if pending.alone:
                break
        return batch

    async def _answer_batch(self, batch: Sequence[PendingRequest]) -> None:
        """Set the answers of a batch; if the call fails, queue its requests again, each for a call of its own.

        If the batch has a single request, the error of the call is raised.
        """
        loop, requests = asyncio.get_running_loop(), [pending.request for pending in batch]
        started = time.perf_counter()
        try:
            answers = await loop.run_in_executor(self._scoring, _score, batch[0].ranker, requests)
        except Exception as error:
            if len(batch) == 1:
                raise
            log_error("call_failed", error, requests=len(batch))
            for pending in batch:
                if not pending.answer.done():
                    self._pending.append(pending)
                    pending.alone = True
            return
        for pending, answer in zip(batch, answers, strict=True):
            if not pending.answer.done():
                pending.answer.set_result(answer)
        self._measure(batch, time.perf_counter() - started)

    def _measure(self, batch: Sequence[PendingRequest], seconds: float) -> None:
        rows = sum(pending.request.rows for pending in batch)
        self._metrics.batch_rows.observe(rows)
        self._metrics.batch_requests.observe(len(batch))
        self._metrics.batch_seconds.observe(seconds)
        self._metrics.rows.inc(rows)
        # One thread reads while another scores, so the slower of the two determines the rate.
        mean = max(seconds, sum(pending.seconds for pending in batch)) / len(batch)
        self.seconds_per_request += (_LAST_CALL_WEIGHT if self.seconds_per_request else 1.0) * (
            mean - self.seconds_per_request
        )


def _read(kind: Kind, body: bytes, ranker: Ranker) -> tuple[ModelRequest, float]:
    started = time.perf_counter()
    document = parse(body)
    request: ModelRequest = ranker.read_rank(document) if kind == "rank" else ranker.read_score(document)
    return request, time.perf_counter() - started


def _score(ranker: Ranker, requests: Sequence[ModelRequest]) -> list[Answer]:
    return [_to_answer(answer) for answer in ranker.answer_each(requests)]


def _to_answer(answer: object) -> Answer:
    if isinstance(answer, RequestError):
        return Answer(422, error_body(answer.field, answer.value, answer.rule))
    return Answer(200, orjson.dumps(answer))
