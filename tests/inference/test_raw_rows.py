"""Held-out rows in raw values are the requests that they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ple_rec.config.load import load_schema
from ple_rec.data.encode import Encoder
from ple_rec.inference.held_out import HeldOutRows, RawHeldOutRows
from ple_rec.inference.ranker import Ranker, latest_version


def raw_rows(
    feed: Path, feed_model: Path, ranker: Ranker, rows: list[dict[str, Any]], labels_NK: Any = None, group_N: Any = None
) -> RawHeldOutRows:
    """Return the raw values of what the server reads of rows."""
    request = ranker.read_score({"rows": rows})
    labels = np.zeros((len(rows), 2), np.float32) if labels_NK is None else labels_NK
    held_out = HeldOutRows("test", request.ids, request.dense, 7, labels, labels, labels >= 0, group_N)
    version = latest_version(feed_model)
    encoder = Encoder(version, load_schema(version).sparse, sealed=True)
    return RawHeldOutRows(held_out, ranker.signature, feed / "data", encoder)


def test_values_come_back(feed: Path, feed_model: Path, ranker: Ranker) -> None:
    """But for what is missing, and unknown ones that share no row."""
    rows: list[dict[str, Any]] = [
        {"hour": 3, "city": "city 1", "video_id": "v3", "price": 1.5, "history": ["v1", "v2"], "minutes": 2},
        {"tags": {"values": ["t1", "t1"], "weights": [0.5, 2]}, "history": [], "user_id": None},
        {"city": "nowhere", "history": ["v1"], "price": -0.25},
    ]
    columns = raw_rows(feed, feed_model, ranker, rows).columns(np.array([2, 0, 1]))
    assert columns["hour"] == [None, 3, None]
    assert columns["city"] == [None, "city 1", None]
    assert columns["price"] == [-0.25, 1.5, None]
    assert columns["minutes"] == [None, 2.0, None]
    assert columns["history"] == [["v1"], ["v1", "v2"], []]
    none: dict[str, Any] = {"values": [], "weights": []}
    assert columns["tags"] == [none, none, {"values": ["t1", "t1"], "weights": [0.5, 2.0]}]


def test_a_row_that_unknown_values_share_has_one_of_them(feed: Path, feed_model: Path, ranker: Ranker) -> None:
    unknown = [{"video_id": f"no such video {i}"} for i in range(40)]
    raw = raw_rows(feed, feed_model, ranker, unknown)
    rows_V = raw.rows.ids["video_id"].values_V
    assert len(set(rows_V.tolist())) == 4
    values = raw.columns(np.arange(len(unknown)))["video_id"]
    assert len(set(values)) == 4
    again = ranker.read_score({"rows": {"video_id": values}})
    assert again.ids["video_id"].values_V.tolist() == rows_V.tolist()
