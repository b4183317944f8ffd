"""Rows that lack the value by which chance decides on a split or a sample: chance decides on each by itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.data_prep.feed_logs import read
from tests.data_prep.plain_logs import Logs, day_of, with_column

SHARED = 'split={by="day",train=[1,3],test=[4,4],valid_share=0.5}'
SAMPLING = 'sampling={keep="is_like = 1",rate=0.5,hash=["user_id"]}'


def day_without_groups(day: int) -> pa.Table:
    """Return a day in which 100 rows have no user, 100 have user -1, and 40 one of four users; 100 have no video."""
    users = ([None] * 10 + [-1] * 10 + [3, -5, 7, 9]) * 10
    table = with_column(day_of(day, rows=len(users)), "user_id", users, pa.int64())
    return with_column(table, "video_id", [None if user is None else "v" for user in users], pa.string())


def rows_by_split(logs: Logs, column: str) -> dict[Any, Counter[str]]:
    """Return how many rows of each value of a column lie in valid and in test."""
    counts: dict[Any, Counter[str]] = {}
    for split in ("valid", "test"):
        for value in read(logs.out, split)[column].to_pylist():
            counts.setdefault(value, Counter())[split] += 1
    return counts


def test_a_share_of_the_rows_without_a_group_is_valid(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    logs.write(4, day_without_groups(4))
    logs.prepare(SHARED)
    counts = rows_by_split(logs, "group")
    for group in (None, -1):
        assert 30 <= counts[group]["valid"] <= 70
        assert counts[group].total() == 100
    assert all(len(counts[group]) == 1 for group in counts if group not in (None, -1))


def test_a_share_of_the_rows_without_a_value_to_hash_is_valid(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    logs.write(4, day_without_groups(4))
    logs.prepare(SHARED.replace("}", ',valid_hash="video_id"}'), 'carry={video="video_id"}')
    counts = rows_by_split(logs, "video")
    assert 30 <= counts[None]["valid"] <= 70
    assert len(counts["v"]) == 1


def test_a_training_row_with_nothing_to_sample_it_by_is_refused(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    logs.spoil(1, "user_id", dict.fromkeys(range(6)))  # two of them are liked, and stay whatever chance says
    logs.spoil(4, "user_id", dict.fromkeys(range(6)))  # test is not sampled
    assert logs.refusal(SAMPLING) == (
        "log/day 1.parquet, row group 0, row 1: sampling.hash is missing; at least one of the hashed values is not "
        "missing in a row that may be left out (4 rows). Fix: add a column to sampling.hash that differs between such "
        "rows, e.g. the time or a request id"
    )
    dropped = logs.prepare(SAMPLING, "on_bad_row=drop", "max_bad_fraction=0.1").stats["dropped"]
    (bad,) = (each for each in dropped if each["reason"].startswith("sampling.hash: "))
    assert (bad["split"], bad["rows"]) == ("train", 4)
    liked = [row for row in read(logs.out, "train").to_pylist() if row["group"] is None]
    assert [(row["label_like"], row["sample_weight"]) for row in liked] == [(1.0, 1.0)] * 2
    assert (
        logs.prepare(SAMPLING.replace('"user_id"', '"user_id", "time_ms"'), overwrite=True).stats["rows"]["test"] == 24
    )
