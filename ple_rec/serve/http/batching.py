"""Micro-batches: one thread has the model and takes what was read, without waiting for more.

While it computes, another thread reads what comes; the next call of the model takes that together, up to a number of
rows. Under little load a request is computed alone at once, under much load a call has several.
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
    """Two threads: one reads requests, the other has the model and answers what was read.

    Args:
        ranker: The first model.
        max_rows: Of one call, unless a single job has more.
        metrics: Told of every call.
    """

    def __init__(self, ranker: Ranker, max_rows: int, metrics: Metrics) -> None:
        self.ranker = ranker  # a new one is put here: what is read from then on it answers
        self.seconds_each = 0.0  # recent mean of a request
        self._max_rows, self._metrics = max_rows, metrics
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._read: queue.SimpleQueue[_Parsed | None] = queue.SimpleQueue()
        self._held: _Parsed | None = None  # too many rows for the last call, or of another model
        targets = {"read": self._run_reader, "model": self._run_model}
        self._threads = [threading.Thread(target=run, name=name, daemon=True) for name, run in targets.items()]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Answer what waits, then end."""
        self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, job: Job) -> None:
        """Queue a job; its future is set by its event loop."""
        self._jobs.put(job)

    @property
    def waiting(self) -> int:
        """Requests that were read, and that no call has taken."""
        return self._read.qsize()

    def _run_reader(self) -> None:
        while (job := self._jobs.get()) is not None:
            if (parsed := self._parsed(job)) is not None:
                self._read.put(parsed)
        self._read.put(None)

    def _parsed(self, job: Job) -> _Parsed | None:
        """None of what is answered at once: it cannot be read, or nobody waits for it."""
        ranker, answer = self.ranker, _LATE
        try:
            if job.wanted():
                return _Parsed(job, ranker, _read(job, ranker))
        except orjson.JSONDecodeError as error:
            place = f"line {error.lineno}, column {error.colno}"
            answer = Answer(400, error_body("body", place, f"it is no JSON: {error.msg}"))
        except RequestError as error:
            answer = Answer(422, error_body(error.field, error.value, str(error.rule)))
        except Exception as error:  # a bug: the one request gets 500, and the worker goes on
            failed("read_failed", error)
            answer = Answer(500, internal().body())
        _deliver([(job, answer)])
        return None

    def _run_model(self) -> None:
        while (batch := self._gather()) is not None:
            if batch:
                begun = time.perf_counter()
                self._answer(batch)
                self._measured(batch, time.perf_counter() - begun)

    def _gather(self) -> list[_Parsed] | None:
        """What was read, up to the rows of a call; None at the end."""
        batch, rows = list[_Parsed](), 0
        while rows < self._max_rows:
            parsed, self._held = self._held, None
            try:
                parsed = parsed or self._read.get(block=not batch)
            except queue.Empty:
                break
            if parsed is None:
                if not batch:
                    return None
                self._read.put(None)  # first what was taken
                break
            if not parsed.job.wanted():
                _deliver([(parsed.job, _LATE)])
                continue
            rows += parsed.asked.rows
            if batch and (rows > self._max_rows or parsed.ranker is not batch[0].ranker):
                self._held = parsed
                break
            batch.append(parsed)
        return batch

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
