"""Micro-batches: three threads hand requests on, so that none of their work stands still while the model computes.

    read      JSON -> table rows and numbers
    call      what was read meanwhile -> one call of the model, up to a number of rows; users and bags are looked up
    answer    scores -> JSON

The blocks of a call queue behind those of the call before it, at most `_CALLS` calls at a time; what comes while so
many are computed waits, and is the next call. So under little load a request is computed alone at once, and under much
load a call has several.

A bug costs the requests at hand, which get 500, and no thread. Should one end all the same, `Worker.alive` says so.
"""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

import orjson

from ple_rec.serve.http.body import parse
from ple_rec.serve.http.errors import RefusedError, error_body, internal
from ple_rec.serve.http.log import failed
from ple_rec.serve.http.metrics import Metrics
from ple_rec.serve.ranker import RequestError

if TYPE_CHECKING:
    from ple_rec.serve.ranker import Asked, Ranker

Kind = Literal["rank", "score"]
_CALLS = 2
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


class _Call(NamedTuple):
    batch: Sequence[_Parsed]
    wait: Callable[[], list[dict[str, Any] | RequestError]]
    begun: float  # by `time.perf_counter`


class Worker:
    """The threads that answer jobs.

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
        self._called: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(_CALLS)
        self._held: _Parsed | None = None  # too many rows for the last call, or of another model
        targets = {"read": self._run_reader, "call": self._run_caller, "answer": self._run_answerer}
        self._threads = [threading.Thread(target=run, name=name, daemon=True) for name, run in targets.items()]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Answer what waits, then end; where a thread has ended, nothing is answered, and others may wait for it."""
        self._jobs.put(None)
        for thread in self._threads if self.alive else ():
            thread.join()

    def submit(self, job: Job) -> None:
        """Queue a job; its future is set by its event loop."""
        self._jobs.put(job)

    @property
    def alive(self) -> bool:
        """Whether all threads run: without one of them no request is answered."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """Requests that were read, and that no call has taken."""
        return self._read.qsize()

    def _run_reader(self) -> None:
        while (job := self._jobs.get()) is not None:
            gc.disable()  # a document has no cycles; the collector would look at all of its objects again and again
            try:
                with _costing("read_failed", [job]):
                    if (parsed := self._parsed(job)) is not None:
                        self._read.put(parsed)
            finally:
                gc.enable()
        self._read.put(None)

    def _parsed(self, job: Job) -> _Parsed | None:
        """None of what is answered at once: it cannot be read, or nobody waits for it."""
        ranker, answer = self.ranker, _LATE
        try:
            if job.wanted():
                return _Parsed(job, ranker, _read(job, ranker))
        except RefusedError as error:
            if error.reason is not None:
                self._metrics.refused.labels(error.reason).inc()
            answer = Answer(error.status, error.body())
        except RequestError as error:
            answer = _written(error)
        _deliver([(job, answer)])
        return None

    def _run_caller(self) -> None:
        self._room.acquire()
        more = True
        while more:
            batch = list[_Parsed]()
            with _costing("call_failed", (parsed.job for parsed in batch)):
                more = self._gather(batch)
                if batch:
                    self._called.put(self._begin(batch))
                    self._room.acquire()
        self._called.put(None)

    def _begin(self, batch: Sequence[_Parsed]) -> _Call:
        begun = time.perf_counter()
        try:
            wait = batch[0].ranker.begin([parsed.asked for parsed in batch])
        except Exception as error:  # a bug: told where it is waited for
            return _Call(batch, partial(_raise, error), begun)
        return _Call(batch, wait, begun)

    def _run_answerer(self) -> None:
        ended = 0.0
        while (call := self._called.get()) is not None:
            with _costing("answer_failed", (parsed.job for parsed in call.batch)):
                try:
                    self._answer(call)
                finally:
                    self._room.release()
                begun, ended = max(call.begun, ended), time.perf_counter()
                self._measured(call.batch, ended - begun)

    def _gather(self, batch: list[_Parsed]) -> bool:
        """Fill a batch with what was read, up to the rows of a call; False at the end, when no more will be read."""
        rows = 0
        while rows < self._max_rows:
            parsed, self._held = self._held, None
            try:
                parsed = parsed or self._read.get(block=not batch)
            except queue.Empty:
                break
            if parsed is None:
                return False
            if not parsed.job.wanted():
                _deliver([(parsed.job, _LATE)])
                continue
            rows += parsed.asked.rows
            if batch and (rows > self._max_rows or parsed.ranker is not batch[0].ranker):
                self._held = parsed
                break
            batch.append(parsed)
        return True

    def _answer(self, call: _Call) -> None:
        """Answers of all; where that fails, one call for each, so that a request fails alone."""
        batch = call.batch
        with _costing("answer_failed", (parsed.job for parsed in batch)):
            try:
                written = [_written(answer) for answer in call.wait()]
            except Exception:
                if len(batch) == 1:
                    raise
                for parsed in batch:
                    self._answer(self._begin([parsed]))
                return
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
    document = parse(job.body)
    return ranker.read_rank(document) if job.kind == "rank" else ranker.read_score(document)


def _written(answer: dict[str, Any] | RequestError) -> Answer:
    if isinstance(answer, RequestError):
        return Answer(422, error_body(answer.field, answer.value, answer.rule))
    return Answer(200, orjson.dumps(answer))


def _raise(error: Exception) -> NoReturn:
    raise error


@contextmanager
def _costing(event: str, jobs: Iterable[Job]) -> Iterator[None]:
    """Answer 500 to jobs where a bug shows itself, and go on.

    Args:
        event: Name of the line in the log, which has the traceback.
        jobs: Jobs that are at hand; looked at once it has shown itself.
    """
    try:
        yield
    except Exception as error:
        failed(event, error)
        _deliver([(job, Answer(500, internal().body())) for job in jobs])


def _deliver(answers: Sequence[tuple[Job, Answer]]) -> None:
    """Set the futures, in their event loop's thread."""

    def set_all() -> None:
        for job, answer in answers:
            if not job.done.done():
                job.done.set_result(answer)

    if not answers:
        return
    with suppress(RuntimeError):  # it is closed, at the end, when nobody waits any more
        answers[0][0].done.get_loop().call_soon_threadsafe(set_all)
