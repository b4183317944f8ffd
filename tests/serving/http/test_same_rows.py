"""A server, `ple-rec predict` and evaluation say the same of the same rows, each from what it is given."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ple_rec.inference.ranker import Ranker
from tests.inference.feed import LAST, log_of, raw
from tests.inference.test_export import evaluated
from tests.serving.http.running import running

TASKS = ("like", "watch")


def requested(feed: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of the last day as somebody has them who asks a server, joined and filtered by hand.

    The first list has the features, the second the raw columns.
    """
    videos = {video["video"]: video for video in pq.read_table(feed / "raw" / "videos.parquet").to_pylist()}
    cities: dict[int, dict[str, str]] = {}
    for user in pa.csv.read_csv(feed / "raw" / "users.csv").to_pylist():
        cities.setdefault(user["user_id"], {})[str(user["since"])[:10]] = user["city"]
    rows, raw_rows = [], []
    for row in pq.read_table(log_of(feed, LAST)).to_pylist():
        if row["spam"]:
            continue
        at = datetime.fromtimestamp(row["time_ms"] / 1000 + 8 * 3600, UTC)
        known = [city for since, city in sorted(cities.get(row["user_id"], {}).items()) if since <= f"{at:%Y-%m-%d}"]
        video = videos.get(row["video_id"], {"tags": None, "tag_weights": None, "length": None})
        rows.append(
            {
                "user_id": row["user_id"],
                "video_id": row["video_id"],
                "hour": at.hour,
                "city": known[-1] if known else None,
                "price_bin": row["price"],
                "tags": None if video["tags"] is None else {"values": video["tags"], "weights": video["tag_weights"]},
                "history": row["history"],
                "price": row["price"],
                "minutes": None if video["length"] is None else video["length"] / 60,
            }
        )
        log = {name: row[name] for name in ("user_id", "video_id", "time_ms", "price", "history")}
        tags = {f"videos.{name}": video[name] for name in ("tags", "tag_weights", "length")}
        raw_rows.append(log | tags | {"users.city": known[-1] if known else None})
    return rows, raw_rows


def test_server_predict_and_evaluation_agree(feed: Path, feed_model: Path, ranker: Ranker, tmp_path: Path) -> None:
    rows, raw_rows = requested(feed)
    predicted = raw(feed, tmp_path / "out", log_of(feed, LAST))
    expected = np.stack([predicted[name].to_numpy() for name in TASKS], axis=1)
    np.testing.assert_array_equal(expected, evaluated(feed / "run"))
    first = [i for i, row in enumerate(rows) if row["user_id"] == rows[0]["user_id"]]
    of_user = [each.name for each in ranker.signature.inputs_of("user")]
    items = [{name: value for name, value in rows[i].items() if name not in of_user} for i in first]
    with running(feed_model, tmp_path) as server:
        scored = server.post("/v1/score", {"rows": rows}).json()["rows"]
        assert server.post("/v1/score", {"form": "raw", "rows": raw_rows}).json()["rows"] == scored
        ranked = server.post("/v1/rank", {"user": {name: rows[0][name] for name in of_user}, "items": items}).json()
        assert ranker.raw_form is not None
        raw_of_user = {column.name for column in ranker.raw_form.columns if column.of == "user"}
        raw_items = [{key: value for key, value in raw_rows[i].items() if key not in raw_of_user} for i in first]
        raw_user = {key: value for key, value in raw_rows[0].items() if key in raw_of_user}
        raw_ranked = server.post("/v1/rank", {"form": "raw", "user": raw_user, "items": raw_items}).json()
    assert raw_ranked == ranked
    assert len(scored) == len(rows)
    indices = [item["index"] for item in ranked["items"]]
    assert sorted(indices) == list(range(len(first)))
    assert len(first) > 2
    for answers, places in ((scored, list(range(len(rows)))), (ranked["items"], [first[i] for i in indices])):
        found = np.array([[row["predictions"][name] for name in TASKS] for row in answers], np.float32)
        np.testing.assert_allclose(found, expected[places], rtol=0, atol=1e-6)
        scores = predicted["score"].to_numpy()[places]
        np.testing.assert_allclose([row["score"] for row in answers], scores, rtol=0, atol=1e-5)
