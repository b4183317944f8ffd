"""The thread that has the model: what waits goes together, what is wrong, late or unwanted goes alone."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.types import Message

from ple_rec.serve import ranker as ranker_module
from ple_rec.serve.http.app import application
from ple_rec.serve.http.batching import Answer, Job, Worker
from ple_rec.serve.http.metrics import Metrics
from ple_rec.serve.http.options import Options
from ple_rec.serve.program import read_weights
from ple_rec.serve.ranker import Asked, Ranker, RequestError, latest
from tests.serve.http.test_api import many


@pytest.fixture(scope="module")
def ranker(model_dir: Path) -> Ranker:
    return Ranker(latest(model_dir), 1)


@pytest.fixture(scope="module")
def body(ranker: Ranker) -> dict[str, Any]:
    found: dict[str, Any] = ranker.examples[0]["request"]
    return found


def answered(
    ranker: Ranker, bodies: Sequence[object], rows: int = 2048, late: Sequence[int] = (), gone: Sequence[int] = ()
) -> tuple[list[Answer], Metrics]:
    """Jobs that all wait, after one of a single row that is in the model meanwhile; their answers.

    Args:
        ranker: The model.
        bodies: Of the jobs, all of /v1/rank.
        rows: Of one call at most.
        late: Jobs whose time has passed.
        gone: Jobs for which nobody waits.
    """

    busy, free = threading.Event(), threading.Event()

    def begin(asked: Sequence[Asked]) -> Callable[[], list[dict[str, Any] | RequestError]]:
        busy.set()
        assert free.wait(60)
        return Ranker.begin(ranker, asked)

    async def run() -> tuple[list[Answer], Metrics]:
        metrics = Metrics()
        worker = Worker(ranker, rows, metrics)
        worker.start()

        def submit(body: object, deadline: float, is_gone: bool) -> Job:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            job = Job("rank", content, deadline, asyncio.get_running_loop().create_future(), is_gone)
            worker.submit(job)
            return job

        submit({"items": [{}]}, time.monotonic() + 60, False)
        assert await asyncio.to_thread(busy.wait, 60)
        begun = time.monotonic()
        jobs = [submit(each, begun + (-1 if i in late else 60), i in gone) for i, each in enumerate(bodies)]
        while sum(job.done.done() for job in jobs) + worker.waiting < len(jobs):
            await asyncio.sleep(0.001)
        free.set()
        answers = await asyncio.gather(*(job.done for job in jobs))
        await asyncio.to_thread(worker.stop)
        return list(answers), metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranker, "begin", begin)
        return asyncio.run(run())


def calls(metrics: Metrics) -> tuple[float, float]:
    """Calls of the model, and their rows, but for the first."""
    value = metrics.registry.get_sample_value
    return (value("ple_rec_batch_rows_count") or 0) - 1, (value("ple_rec_rows_total") or 0) - 1


def test_what_waits_is_one_call(ranker: Ranker, body: dict[str, Any]) -> None:
    bodies = [many(body, count) for count in (3, 1, 8, 5)]
    answers, metrics = answered(ranker, bodies)
    assert calls(metrics) == (1, 17)
    for each, answer in zip(bodies, answers, strict=True):
        (alone,) = answered(ranker, [each])[0]
        items, expected = json.loads(answer.body)["items"], json.loads(alone.body)["items"]
        assert [item["index"] for item in items] == [item["index"] for item in expected]
        assert [item["score"] for item in items] == pytest.approx([item["score"] for item in expected], abs=1e-6)


def test_a_call_is_bounded_by_its_rows(ranker: Ranker, body: dict[str, Any]) -> None:
    answers, metrics = answered(ranker, [many(body, count) for count in (6, 6, 3, 40, 1, 2)], rows=10)
    assert [answer.status for answer in answers] == [200] * 6
    assert calls(metrics) == (4, 58)  # 6; 6 + 3; 40; 1 + 2


def test_a_wrong_request_fails_alone(ranker: Ranker, body: dict[str, Any]) -> None:
    answers, metrics = answered(ranker, [body, b"{", many(body, 2), {"items": []}, many(body, 4)])
    assert [answer.status for answer in answers] == [200, 400, 200, 422, 200]
    assert calls(metrics) == (1, len(body["items"]) + 6)


@pytest.mark.parametrize("number", [3.4e38, -3e38])
def test_a_request_without_a_finite_prediction_fails_alone(
    feed_model: Path, monkeypatch: pytest.MonkeyPatch, number: float
) -> None:
    """As that of a number which the server accepts, and of a model that multiplies it by more than 1."""

    def large(folder: Path) -> dict[str, torch.Tensor]:
        return {
            name: 100 * weight if name.startswith("extraction.") and weight.dtype == torch.float32 else weight
            for name, weight in read_weights(folder).items()
        }

    monkeypatch.setattr(ranker_module, "read_weights", large)
    ranker = Ranker(latest(feed_model), threads=1)
    good, bad = {"items": [{}, {"hour": 3}]}, {"items": [{}, {"price": number}]}
    answers, metrics = answered(ranker, [good, bad, good])
    assert [answer.status for answer in answers] == [200, 422, 200]
    assert calls(metrics) == (1, 6)
    error = json.loads(answers[1].body)["error"]
    assert error["field"] == "items[1]"
    assert error["message"] == "no finite prediction; a value is too large"


def test_what_is_late_or_unwanted_is_not_computed(ranker: Ranker, body: dict[str, Any]) -> None:
    answers, metrics = answered(ranker, [many(body, 2)] * 4, late=[1], gone=[2])
    assert [answer.status for answer in answers] == [200, 504, 504, 200]
    assert calls(metrics) == (1, 4)


def test_a_bug_costs_the_one_request(
    ranker: Ranker, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether it strikes when a call begins, or when its answers are written."""
    told = Ranker._told

    def breaks(self: Ranker, asked: Asked, *rest: Any) -> dict[str, Any] | RequestError:
        assert asked.rows != 3
        return told(self, asked, *rest)

    pieces = Ranker._pieces

    def breaks_early(self: Ranker, asked: Sequence[Asked], *, grouped: bool) -> Any:
        assert all(each.rows != 5 for each in asked)
        return pieces(self, asked, grouped=grouped)

    monkeypatch.setattr(Ranker, "_told", breaks)
    monkeypatch.setattr(Ranker, "_pieces", breaks_early)
    answers, _ = answered(ranker, [many(body, count) for count in (2, 3, 4, 5, 6)])
    assert [answer.status for answer in answers] == [200, 500, 200, 500, 200]
    assert [record.message for record in caplog.records] == ["answer_failed"] * 2


async def statuses(worker: Worker, count: int) -> list[int]:
    """Statuses of requests that are sent one after the other."""
    found = []
    for _ in range(count):
        job = Job("rank", b'{"items": [{}]}', time.monotonic() + 60, asyncio.get_running_loop().create_future())
        worker.submit(job)
        found.append((await asyncio.wait_for(job.done, 10)).status)
    return found


@pytest.mark.parametrize(
    ("method", "status"), [("_parsed", 500), ("_begin", 500), ("_answer", 500), ("_measured", 200)]
)
def test_a_bug_of_the_worker_itself_ends_none_of_its_threads(
    ranker: Ranker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str, status: int
) -> None:
    whole, bugs = getattr(Worker, method), [RuntimeError("a bug")]

    def breaks_once(*args: Any) -> Any:
        if bugs:
            raise bugs.pop()
        return whole(*args)

    async def run() -> list[int]:
        worker = Worker(ranker, 1024, Metrics())
        worker.start()
        found = await statuses(worker, 3)
        assert worker.alive
        await asyncio.to_thread(worker.stop)
        return found

    monkeypatch.setattr(Worker, method, breaks_once)
    assert asyncio.run(run()) == [status, 200, 200]
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["a bug"]


@pytest.mark.parametrize("method", ["_parsed", "_begin", "_answer"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_whose_thread_has_ended_is_not_ready(
    ranker: Ranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    class End(BaseException):
        pass

    def ends(*args: object) -> None:
        raise End

    async def ready(worker: Worker, metrics: Metrics) -> tuple[int, bool]:
        found = list[int]()

        async def send(message: Message) -> None:
            found.append(message.get("status", 0))

        async def receive() -> Message:
            return {"type": "http.request"}

        scope = {"type": "http", "method": "GET", "path": "/readyz", "headers": [], "query_string": b""}
        await application(worker, Options(tmp_path), metrics)(scope, receive, send)
        return found[0], "\nple_rec_ready 1.0\n" in metrics.text().decode()

    async def run() -> list[tuple[int, bool]]:
        metrics = Metrics()
        worker = Worker(ranker, 1024, metrics)
        worker.start()
        found = [await ready(worker, metrics)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(statuses(worker, 1), 0.5)
        found.append(await ready(worker, metrics))
        await asyncio.wait_for(asyncio.to_thread(worker.stop), 5)
        return found

    monkeypatch.setattr(Worker, method, ends)
    assert asyncio.run(run()) == [(200, True), (503, False)]


def test_requests_are_answered_by_the_model_that_has_read_them(ranker: Ranker, body: dict[str, Any]) -> None:
    async def run() -> None:
        metrics = Metrics()
        worker = Worker(ranker, 1024, metrics)
        rankers = [ranker, copy.copy(ranker)]
        rankers[1].version = "v9"
        loop = asyncio.get_running_loop()
        jobs = [Job("rank", json.dumps(body).encode(), time.monotonic() + 60, loop.create_future()) for _ in range(4)]
        for job, own in zip(jobs, (0, 0, 1, 1), strict=True):
            worker.ranker = rankers[own]
            parsed = worker._parsed(job)
            assert parsed is not None
            worker._read.put(parsed)
        worker.start()
        await asyncio.to_thread(worker.stop)  # which answers what waits
        assert [json.loads(job.done.result().body)["version"] for job in jobs] == ["v1", "v1", "v9", "v9"]
        assert metrics.registry.get_sample_value("ple_rec_batch_rows_count") == 2

    asyncio.run(run())


def test_a_loop_that_has_ended_does_not_end_the_threads(ranker: Ranker, body: dict[str, Any]) -> None:
    loop = asyncio.new_event_loop()
    worker = Worker(ranker, 1024, Metrics())
    worker.start()
    for _ in range(3):
        worker.submit(Job("rank", json.dumps(body).encode(), time.monotonic() + 60, loop.create_future()))
    loop.close()
    worker.stop()
    assert not any(thread.is_alive() for thread in worker._threads)
