"""benchmarks/delta.py: the logs from which it makes a version and its delta."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.delta import write_logs


def test_each_user_is_in_the_first_log_once_and_one_in_ten_of_the_appended_day_is_new(tmp_path: Path) -> None:
    write_logs(tmp_path, users=1_000, changed=200)
    first, day = (
        pq.read_table(tmp_path / "log" / f"day={number}", columns=["user_id"], partitioning=None)["user_id"].to_pylist()
        for number in (1, 3)
    )
    assert len(set(first)) == len(first) == 1_000
    assert len(set(day)) == len(day) == 200
    assert len(set(day) - set(first)) == 20
