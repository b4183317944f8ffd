"""benchmarks/daily.py: the tables that it prints."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.daily import Quality, count_rows, quality_lines


def test_qualities_are_means_over_seeds_and_differences_are_paired_by_day() -> None:
    warm = [[Quality(0.90, 0.7), Quality(0.80, 0.8)], [Quality(0.92, 0.7), Quality(0.82, 0.8)]]
    # Its NE is .01 and .03 above that of `warm` on the two days.
    once = [[Quality(ne + more, auc) for (ne, auc), more in zip(seed, (0.01, 0.03), strict=True)] for seed in warm]
    lines = quality_lines({"once": once, "warm": warm}, [8, 9])
    assert lines[0].split() == ["day", "NE", "once", "NE", "warm", "AUC", "once", "AUC", "warm"]
    assert lines[1].split() == ["8", "0.9200", "0.9100", "0.7000", "0.7000"]
    assert lines[3].split() == ["mean", "0.8800", "0.8600", "0.7500", "0.7500"]
    # Student's t with one degree of freedom: 12.706 times the standard error, .01.
    assert lines[-1] == "NE once - NE warm: +0.0200, 95 % interval -0.1071 to +0.1471"


def test_a_freed_row_counts_as_free(tmp_path: Path) -> None:
    pq.write_table(pa.table({"raw": [5, None, 7], "row": [1, 2, 3]}), tmp_path / "user.parquet")
    assert count_rows(tmp_path / "user.parquet", 10) == (2, 7, 10)
