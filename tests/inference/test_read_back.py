"""Held-out rows become requests that a server takes, and each raw value is read at least once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ple_rec.inference.ranker import Ranker
from ple_rec.inference.read_back import check_requests
from ple_rec.inference.request import ScoreRequest
from tests.inference.test_raw_rows import raw_rows


def checked(feed: Path, feed_model: Path, ranker: Ranker, rows: list[dict[str, Any]]) -> list[Any]:
    """Bodies of the requests that are made of rows."""
    bodies = []

    def read(body: Any) -> ScoreRequest:
        bodies.append(body["rows"])
        return ranker.read_score(body)

    check_requests(raw_rows(feed, feed_model, ranker, rows), read)
    return bodies


def test_each_value_is_read_once(feed: Path, feed_model: Path, ranker: Ranker) -> None:
    rows = [{"hour": i % 3, "city": None, "video_id": f"v{i % 4}", "price": float(i)} for i in range(100)]
    (body,) = checked(feed, feed_model, ranker, rows)
    assert (body["hour"], body["price"]) == ([0, 1, 2, 0], [0.0, 1.0, 2.0, 3.0])


def test_a_number_of_each_dense_feature_is_read(feed: Path, feed_model: Path, ranker: Ranker) -> None:
    """Though the first row has none, and no row after it brings a value of a sparse feature."""
    rows: list[dict[str, Any]] = [{}, {"price": 2.5}, {"price": 3.5, "minutes": 4}, {"minutes": 5}]
    (body,) = checked(feed, feed_model, ranker, [{"hour": 1, **row} for row in rows])
    assert (body["price"], body["minutes"]) == ([None, 2.5, 3.5], [None, None, 4.0])


@pytest.mark.parametrize(("bound", "most", "requests"), [("MAX_ITEMS", 5, [5, 5, 2]), ("MAX_VALUES", 14, [3, 3, 3, 3])])
def test_requests_are_no_larger_than_a_server_takes_them(
    feed: Path,
    feed_model: Path,
    ranker: Ranker,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
    most: int,
    requests: list[int],
) -> None:
    monkeypatch.setattr(f"ple_rec.inference.read_back.{bound}", most)
    bodies = checked(feed, feed_model, ranker, [{"history": ["v1", "v2", "v1", "v3"], "hour": i} for i in range(12)])
    assert [len(body["hour"]) for body in bodies] == requests


@pytest.mark.parametrize("long", [0, 1])
def test_a_row_that_no_request_can_hold_is_passed_over(
    feed: Path, feed_model: Path, ranker: Ranker, monkeypatch: pytest.MonkeyPatch, long: int
) -> None:
    rows = [{"history": ["v1", "v2"], "hour": 7}, {"history": ["v1"], "hour": 7}]
    rows[long]["history"] = ["v1"] * 3
    monkeypatch.setattr("ple_rec.inference.read_back.MAX_BAG", 2)
    (body,) = checked(feed, feed_model, ranker, rows)
    assert body["hour"] == [7]
    assert "v1" in body["history"][0]
