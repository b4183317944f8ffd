"""Held-out rows become requests that a server takes, and each raw value is read at least once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ple_rec.config.load import load_schema
from ple_rec.data.encode import Encoder
from ple_rec.serve.held_out import HeldOut
from ple_rec.serve.ranker import Ranker, latest
from ple_rec.serve.read_back import check_requests
from ple_rec.serve.request import ScoreRequest
from ple_rec.serve.request_rows import MAX_ITEMS


def checked(feed: Path, ranker: Ranker, rows: list[dict[str, Any]], most: int = MAX_ITEMS) -> list[Any]:
    """Bodies of the requests that are made of rows, which come in parts of so many."""
    parts = [ranker.read_score({"rows": rows[i : i + most]}) for i in range(0, len(rows), most)]
    no_labels = np.zeros((len(rows), 2), np.float32)
    held_out = HeldOut("test", tuple(parts), no_labels, no_labels, no_labels > 0, None)
    raw = Encoder(latest(feed / "model"), load_schema(feed / "data").sparse, sealed=True).features
    bodies = []

    def read(body: Any) -> ScoreRequest:
        bodies.append(body["rows"])
        return ranker.read_score(body)

    check_requests(held_out, ranker.signature, feed / "data", raw, read)
    return bodies


def test_each_value_is_read_once(feed: Path, feed_model: Path, ranker: Ranker) -> None:
    rows = [{"hour": i % 3, "city": None, "video_id": f"v{i % 4}", "price": float(i)} for i in range(100)]
    bodies = checked(feed, ranker, rows, most=40)
    assert [body["hour"] for body in bodies] == [[0, 1, 2, 0], [1], [2]]  # of each part its first row too
    assert [body["price"] for body in bodies] == [[0.0, 1.0, 2.0, 3.0], [40.0], [80.0]]


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
    monkeypatch.setattr(f"ple_rec.serve.read_back.{bound}", most)
    bodies = checked(feed, ranker, [{"history": ["v1", "v2", "v1", "v3"], "hour": i} for i in range(12)])
    assert [len(body["hour"]) for body in bodies] == requests


@pytest.mark.parametrize("long", [0, 1])
def test_a_row_that_no_request_can_hold_is_passed_over(
    feed: Path, feed_model: Path, ranker: Ranker, monkeypatch: pytest.MonkeyPatch, long: int
) -> None:
    rows = [{"history": ["v1", "v2"], "hour": 7}, {"history": ["v1"], "hour": 7}]
    rows[long]["history"] = ["v1"] * 3
    monkeypatch.setattr("ple_rec.serve.read_back.MAX_BAG", 2)
    (body,) = checked(feed, ranker, rows)
    assert body["hour"] == [7]
    assert "v1" in body["history"][0]
