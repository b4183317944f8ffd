"""The batcher: what waits goes together, what is wrong, late or unwanted goes alone."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ple_rec.inference import ranker as ranker_module
from ple_rec.inference.program import read_weights
from ple_rec.inference.ranker import ModelRequest, Ranker, RequestError, latest_version
from ple_rec.serving.http.batching import Answer, Batcher
from ple_rec.serving.http.errors import RefusedError
from ple_rec.serving.http.metrics import ServerMetrics
from tests.serving.http.test_api import many


@pytest.fixture(scope="module")
def ranker(model_dir: Path) -> Ranker:
    return Ranker(latest_version(model_dir), 1)


@pytest.fixture(scope="module")
def body(ranker: Ranker) -> dict[str, Any]:
    found: dict[str, Any] = ranker.examples[0]["request"]
    return found


Came = Answer | RefusedError | AssertionError | None  # None: nobody waited


def answered(
    ranker: Ranker, bodies: Sequence[object], rows: int = 2048, gone: Sequence[int] = ()
) -> tuple[list[Any], ServerMetrics]:
    """Send requests that all wait, after one of a single row that is in the model meanwhile; their answers.

    Args:
        ranker: The model.
        bodies: Bodies of /v1/rank.
        rows: Most rows of one call.
        gone: Places of requests that are cancelled while they wait.
    """
    busy, free = threading.Event(), threading.Event()
    scored = Ranker.score_rows

    def held(self: Ranker, requests: Sequence[ModelRequest], **more: Any) -> Any:
        busy.set()
        assert free.wait(60)
        return scored(self, requests, **more)

    async def run() -> tuple[list[Came], ServerMetrics]:
        metrics = ServerMetrics()
        batcher = Batcher(ranker, rows, metrics)

        def send(body: object) -> asyncio.Task[Answer]:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            return asyncio.create_task(batcher.answer("rank", content))

        first = send({"items": [{}]})
        assert await asyncio.to_thread(busy.wait, 60)
        tasks = [send(each) for each in bodies]
        while sum(task.done() for task in tasks) + len(batcher._pending) < len(tasks):
            await asyncio.sleep(0.001)
        for place in gone:
            tasks[place].cancel()
        await asyncio.sleep(0)
        free.set()
        await first
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        return [None if isinstance(each, asyncio.CancelledError) else each for each in answers], metrics  # type: ignore[misc]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ranker, "score_rows", held)
        return asyncio.run(run())


def calls(metrics: ServerMetrics) -> tuple[float, float]:
    """Return the calls of the model, and their rows, but for the first."""
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
    ranker = Ranker(latest_version(feed_model), threads=1)
    good, bad = {"items": [{}, {"hour": 3}]}, {"items": [{}, {"price": number}]}
    answers, metrics = answered(ranker, [good, bad, good])
    assert [answer.status for answer in answers] == [200, 422, 200]
    assert calls(metrics) == (1, 6)
    error = json.loads(answers[1].body)["error"]
    assert error["field"] == "items[1]"
    assert error["message"] == "the prediction is not finite; a value is too large"


def test_what_nobody_waits_for_is_not_computed(ranker: Ranker, body: dict[str, Any]) -> None:
    answers, metrics = answered(ranker, [many(body, 2)] * 4, gone=[0, 2])
    assert [answer and answer.status for answer in answers] == [None, 200, None, 200]
    assert calls(metrics) == (1, 4)


def test_a_bug_costs_the_one_request(
    ranker: Ranker, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether it strikes when rows are looked up, or when answers are written."""
    answer_of, inputs = Ranker._build_answer, type(ranker._lookups).inputs

    def breaks(self: Ranker, request: ModelRequest, *rest: Any) -> dict[str, Any] | RequestError:
        assert request.rows != 3, "a bug"
        return answer_of(self, request, *rest)

    def breaks_early(self: Any, requests: Sequence[ModelRequest]) -> Any:
        assert all(each.rows != 5 for each in requests), "another"
        return inputs(self, requests)

    monkeypatch.setattr(Ranker, "_build_answer", breaks)
    monkeypatch.setattr(type(ranker._lookups), "inputs", breaks_early)
    answers, metrics = answered(ranker, [many(body, count) for count in (2, 3, 4, 5, 6)])
    assert [answer.status for answer in answers] == [200, 500, 200, 500, 200]
    assert calls(metrics) == (3, 12)  # of what was answered, each alone
    assert [record.message for record in caplog.records] == ["call_failed"] * 3  # together, and twice alone


def test_a_bug_beside_the_model_strands_nobody(
    ranker: Ranker, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*args: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Batcher, "_measure", breaks)
    answers, _ = answered(ranker, [many(body, 6)] * 3, rows=8)  # a call each
    assert [answer.status for answer in answers] == [200] * 3
    assert {str(record.exc_info[1]) for record in caplog.records if record.exc_info} == {"a bug"}


def test_requests_are_answered_by_the_model_that_has_read_them(ranker: Ranker, body: dict[str, Any]) -> None:
    async def run() -> list[str]:
        batcher, other = Batcher(ranker, 1024, ServerMetrics()), copy.copy(ranker)
        other.version = "v9"
        tasks = []
        for own in (ranker, ranker, other, other):
            batcher.ranker = own
            tasks.append(asyncio.create_task(batcher.answer("rank", json.dumps(body).encode())))
            await asyncio.sleep(0)  # until its reading begins
        answers = await asyncio.gather(*tasks)
        return [json.loads(answer.body)["version"] for answer in answers]

    assert asyncio.run(run()) == ["v1", "v1", "v9", "v9"]
