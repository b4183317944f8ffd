"""Micro-batches: one thread owns the model and takes what waits, without waiting for more.

While it computes, requests queue; the next call of the model takes them together, up to a number of rows. Under little
load a request is computed alone at once, under much load a call has many.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import orjson

from ple_rec.serve.http.errors import error_body, internal
from ple_rec.serve.http.log import failed
from ple_rec.serve.http.metrics import Metrics
from ple_rec.serve.ranker import RequestError

if TYPE_CHECKING:
    from ple_rec.serve.ranker import Asked, Ranker

Kind = Literal["rank", "score"]
_RECENT = 0.1  # weight of the last call in the mean of seconds a request


class Answer(NamedTuple):
    """What a job comes to."""

    status: int
    body: bytes


@dataclass(eq=False, slots=True)
class Job:
    """A request that waits for the model.

    Args:
        kind: What is asked.
        body: JSON, as it came.
        deadline: By `time.monotonic`.
        done: Of the event loop that waits.
        gone: Set there once nobody waits; what is not computed yet never is.
    """

    kind: Kind
    body: bytes
    deadline: float
    done: asyncio.Future[Answer]
    gone: bool = field(default=False)

    def wanted(self) -> bool:
        """Whether somebody waits, and may still get an answer in time."""
        return not self.gone and time.monotonic() < self.deadline


class _Parsed(NamedTuple):
    job: Job
    ranker: Ranker  # that has read it, and has to answer it
    asked: Asked


class Worker:
    """The thread that answers jobs.

    Args:
        ranker: The first model.
        max_rows: Of one call, unless a single job has more.
        metrics: Told of every call.
    """

    def __init__(self, ranker: Ranker, max_rows: int, metrics: Metrics) -> None:
        self.ranker = ranker  # a new one is put here, and is used from the next call on
        self.seconds_each = 0.0  # recent mean of a request
        self._max_rows, self._metrics = max_rows, metrics
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._held: _Parsed | None = None  # read, but too many rows for the last call
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Answer what waits, then end."""
        self._queue.put(None)
        self._thread.join()

    def submit(self, job: Job) -> None:
        """Queue a job; its future is set by its event loop."""
        self._queue.put(job)

    def _run(self) -> None:
        while (batch := self._gather()) is not None:
            if batch:
                begun = time.perf_counter()
                self._answer(batch)
                self._measured(batch, time.perf_counter() - begun)

    def _gather(self) -> list[_Parsed] | None:
        """Read what waits, up to the rows of a call; None at the end."""
        ranker, batch, rows = self.ranker, list[_Parsed](), 0
        if self._held is not None:
            held, self._held = self._held, None
            self._add(batch, held.job, held if held.ranker is ranker else None, ranker)
            rows = sum(each.asked.rows for each in batch)
        while rows < self._max_rows:
            try:
                job = self._queue.get(block=not batch)
            except queue.Empty:
                break
            if job is None:
                if not batch:
                    return None
                self._queue.put(None)  # first what was taken
                break
            ranker = ranker if batch else self.ranker  # waiting may have taken long
            self._add(batch, job, None, ranker)
            rows = sum(each.asked.rows for each in batch)
        if len(batch) > 1 and rows > self._max_rows:
            self._held = batch.pop()
        return batch

    def _add(self, batch: list[_Parsed], job: Job, parsed: _Parsed | None, ranker: Ranker) -> None:
        """Read a job unless that was done; one that cannot be read, or is late, is answered."""
        if not job.wanted():
            _deliver([(job, _LATE)])
        elif parsed is not None:
            batch.append(parsed)
        else:
            try:
                batch.append(_Parsed(job, ranker, _read(job, ranker)))
            except orjson.JSONDecodeError as error:
                place = f"line {error.lineno}, column {error.colno}"
                _deliver([(job, Answer(400, error_body("body", place, f"it is no JSON: {error.msg}")))])
            except RequestError as error:
                _deliver([(job, Answer(422, error_body(error.field, error.value, str(error.rule))))])
            except Exception as error:  # a bug: the one request gets 500, and the worker goes on
                failed("read_failed", error)
                _deliver([(job, Answer(500, internal().body()))])

    def _answer(self, batch: Sequence[_Parsed]) -> None:
        """One call for all; where it fails, one for each, so that a request fails alone."""
        try:
            answers = batch[0].ranker.answer([parsed.asked for parsed in batch])
            written = [Answer(200, orjson.dumps(answer)) for answer in answers]
        except Exception as error:  # a bug, as above
            if len(batch) > 1:
                for parsed in batch:
                    self._answer([parsed])
                return
            failed("answer_failed", error)
            written = [Answer(500, internal().body())]
        _deliver([(parsed.job, answer) for parsed, answer in zip(batch, written, strict=True)])

    def _measured(self, batch: Sequence[_Parsed], seconds: float) -> None:
        rows = sum(parsed.asked.rows for parsed in batch)
        self._metrics.batch_rows.observe(rows)
        self._metrics.batch_requests.observe(len(batch))
        self._metrics.batch_seconds.observe(seconds)
        self._metrics.rows.inc(rows)
        each = seconds / len(batch)
        self.seconds_each += (_RECENT if self.seconds_each else 1.0) * (each - self.seconds_each)


_LATE = Answer(504, error_body("time", "", "the time limit passed before the model was free"))


def _read(job: Job, ranker: Ranker) -> Asked:
    document = orjson.loads(job.body)
    return ranker.read_rank(document) if job.kind == "rank" else ranker.read_score(document)


def _deliver(answers: Sequence[tuple[Job, Answer]]) -> None:
    """Set the futures, in their event loop's thread."""

    def set_all() -> None:
        for job, answer in answers:
            if not job.done.done():
                job.done.set_result(answer)

    loop = answers[0][0].done.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(set_all)
