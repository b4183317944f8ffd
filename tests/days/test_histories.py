"""A chain of days over datasets with histories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ple_rec.config.base import SPLITS
from tests.days.days import PREP, day_name, run, write_feed

HISTORIES = """
[[histories]]
name = "clicked"
key = "user_id"
items = ["video_id"]
where = "is_click = 1"
length = 5
"""
WIDE_MARGINS = "gate.margins={click={auc=0.4}, watch={mse=2.0}}"


def log_of(root: Path, day: int) -> list[dict[str, Any]]:
    """Return the rows of a day's log."""
    rows: list[dict[str, Any]] = pq.read_table(
        root / "raw" / "log" / f"day={day_name(day)}" / "part-0.parquet"
    ).to_pylist()
    return rows


def clicked_before(row: dict[str, Any], log: list[dict[str, Any]]) -> list[str]:
    """Return the last five videos that the user of a row has clicked before it; times of a user differ."""
    clicks = [each for each in log if each["is_click"] and each["user_id"] == row["user_id"]]
    earlier = [each for each in clicks if each["time_ms"] < row["time_ms"]]
    return [each["video_id"] for each in sorted(earlier, key=lambda each: each["time_ms"])[-5:]]


def test_each_day_goes_on_from_the_events_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_feed(tmp_path / "feed", 6)
    (root / "feed.toml").write_text(PREP + HISTORIES)
    monkeypatch.chdir(root)
    records = [run(None, WIDE_MARGINS) for _ in range(3)]
    assert [record.verdict for record in records] == ["published"] * 3
    for day, record in zip((4, 5), records[1:], strict=True):
        dataset = root / str(record.dataset)
        events = pq.read_table(dataset / "histories" / "clicked.parquet")
        rows = pa.concat_tables(pq.read_table(dataset / split) for split in SPLITS)
        columns = (rows[name].to_pylist() for name in ("log_time", "clicked_begin", "clicked_end"))
        stored = [
            (time, events["item_video_id"].slice(begin, end - begin).to_pylist())
            for time, begin, end in zip(*columns, strict=True)
        ]
        log = [row for each in range(1, day + 1) for row in log_of(root, each)]
        expected = [(row["time_ms"] // 1000, clicked_before(row, log)) for row in log_of(root, day)]
        assert sorted(stored) == sorted(expected)
