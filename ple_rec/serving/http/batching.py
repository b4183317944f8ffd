"""Micro-batches: one thread reads requests, another scores what was read meanwhile as one call of the model.

    read      JSON -> table rows and numbers
    score     all that was read meanwhile, up to a number of rows -> one call of the model -> JSON

Under little load a request is scored alone at once, under much load a call has several. Requests wait in the event
loop; one whose client has gone, or whose time is over, is cancelled there, and not scored if that has not begun.

Values of a body are counted before it is parsed, by its commas and brackets: a value becomes an object of Python, so
the number of values decides how long parsing takes, and the number of bytes does not.
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
from ple_rec.serving.http.metrics import Metrics, log_error

MAX_PIECES = 1 << 17  # commas and opening brackets: 2,000 items of 64 features have as many
_NUMBER = re.compile(r"[-+.0-9eE]{1,100}")


def parse(body: bytes) -> object:
    """Return the document.

    Raises:
        RefusedError: 413 where it has too many values, 400 where it is no JSON or has a number that no double holds.
    """
    pieces = sum(map(body.count, (b",", b"[", b"{")))
    if pieces > MAX_PIECES:
        rule = f"at most {MAX_PIECES:,}, within texts too; send fewer items at a time"
        raise RefusedError(413, "body", f"{pieces:,} commas and opening brackets", rule, reason="size")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        if "infinity" in error.msg and (number := _NUMBER.match(error.doc, error.pos)) is not None:
            rule = f"a number is at most 1.8e308 ({place}); an integer may stand as text"
            raise RefusedError(400, "body", shorten(number[0]), rule) from error
        raise RefusedError(400, "body", place, f"it is no JSON: {error.msg}") from error


Kind = Literal["rank", "score"]
_RECENT = 0.1  # weight of the last call in the mean of seconds a request


class Answer(NamedTuple):
    """A status of HTTP and a body of JSON."""

    status: int
    body: bytes


@dataclass(eq=False)
class PendingRequest:
    """A request that was read and waits for its call of the model.

    Args:
        ranker: Model that has read the request, and has to answer it.
        request: Request.
        seconds: Seconds that it took to read it.
        answer: Future of the answer, cancelled where nobody waits for it.
        alone: Flag that it gets a call of its own, after a call with others has failed.
    """

    ranker: Ranker
    request: ModelRequest
    seconds: float
    answer: asyncio.Future[Answer]
    alone: bool = False


class Batcher:
    """Answers requests from an event loop.

    Args:
        ranker: Model.
        max_rows: Largest number of rows of one call, unless a single request has more.
        metrics: Metrics that count every call.
    """

    def __init__(self, ranker: Ranker, max_rows: int, metrics: Metrics) -> None:
        self.ranker = ranker  # a new version is put here, and answers the requests that come from then on
        self.seconds_per_request = 0.0  # recent mean of a request
        self._max_rows, self._metrics = max_rows, metrics
        self._reading, self._scoring = (ThreadPoolExecutor(1, name) for name in ("read", "score"))
        self._pending: deque[PendingRequest] = deque()
        self._calls: asyncio.Task[None] | None = None

    async def answer(self, kind: Kind, body: bytes) -> Answer:
        """Read a body, wait for its call of the model, and return the answer.

        Args:
            kind: Route of the request.
            body: Bytes of the body.

        Raises:
            RefusedError: The body is no JSON, or too large.
        """
        ranker, loop = self.ranker, asyncio.get_running_loop()
        try:
            request, seconds = await loop.run_in_executor(self._reading, _read, kind, body, ranker)
        except RequestError as error:
            return _to_answer(error)
        pending = PendingRequest(ranker, request, seconds, loop.create_future())
        self._pending.append(pending)
        if self._calls is None:
            self._calls = asyncio.create_task(self._call())
        return await pending.answer

    async def _call(self) -> None:
        """Call the model until nothing waits. A bug costs the requests of one call."""
        while batch := self._next_batch():
            try:
                await self._answer(batch)
            except Exception as error:
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

    async def _answer(self, batch: Sequence[PendingRequest]) -> None:
        """Set the answers of a batch; where that fails, each of its requests is tried alone, so that it fails alone."""
        loop, requests = asyncio.get_running_loop(), [pending.request for pending in batch]
        begun = time.perf_counter()
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
        self._measure(batch, time.perf_counter() - begun)

    def _measure(self, batch: Sequence[PendingRequest], seconds: float) -> None:
        rows = sum(pending.request.rows for pending in batch)
        self._metrics.batch_rows.observe(rows)
        self._metrics.batch_requests.observe(len(batch))
        self._metrics.batch_seconds.observe(seconds)
        self._metrics.rows.inc(rows)
        # One thread reads while another scores: the slower of them bounds the rate.
        each = max(seconds, sum(pending.seconds for pending in batch)) / len(batch)
        self.seconds_per_request += (_RECENT if self.seconds_per_request else 1.0) * (each - self.seconds_per_request)


def _read(kind: Kind, body: bytes, ranker: Ranker) -> tuple[ModelRequest, float]:
    begun = time.perf_counter()
    document = parse(body)
    request: ModelRequest = ranker.read_rank(document) if kind == "rank" else ranker.read_score(document)
    return request, time.perf_counter() - begun


def _score(ranker: Ranker, requests: Sequence[ModelRequest]) -> list[Answer]:
    return [_to_answer(answer) for answer in ranker.answers(requests)]


def _to_answer(answer: object) -> Answer:
    if isinstance(answer, RequestError):
        return Answer(422, error_body(answer.field, answer.value, answer.rule))
    return Answer(200, orjson.dumps(answer))
