"""Histories on days on which values lose their rows and others get them: no event is read as another value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ple_rec.config.base import SPLITS
from ple_rec.data.verify import dataset_problems
from tests.data_prep.feed_logs import read
from tests.data_prep.turnover_logs import GROUP, TOML, Chain

HISTORIES = """
[[histories]]
name = "watched"
key = "shop"
items = ["video_id", "city", "user_id"]
where = "is_like = 1"
length = 6
"""
# Tables of the items.
ITEMS = {"video_id": "video", "city": "city", "user_id": "user_id"}
DAYS = (4, 5, 6, 7, 8, 9)


def watched(chain: Chain, row: dict[str, Any], last_day: int) -> list[list[Any]]:
    """Return the raw values of the items in the history of a row, by the log of all days."""
    events = [
        each
        for day, rows in chain.days.items()
        for each in rows
        if day <= last_day and each["is_like"] and each["shop"] == row["shop"] and each["time_s"] < row["time_s"]
    ]
    # Times of rows with the same key differ.
    return [[each[item] for item in ITEMS] for each in sorted(events, key=lambda each: each["time_s"])[-6:]]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_events_have_the_rows_of_their_values_or_none(tmp_path: Path, seed: int) -> None:
    chain = Chain(tmp_path, seed, GROUP + TOML + HISTORIES)
    names = ["first", *(f"day-{day}" for day in DAYS)]
    chain.prepare("first")
    for parent, day in zip(names, DAYS, strict=False):
        chain.append(f"day-{day}", day, parent)
    by_number = {row["row"]: row for rows in chain.days.values() for row in rows}
    reused = 0
    owners: dict[str, dict[int, Any]] = {item: {} for item in ITEMS}
    for name, last_day in zip(names, (5, *DAYS), strict=True):
        last_day = max(last_day, 5)
        folder = chain.root / name / "histories"
        raw = pq.read_table(folder / "watched.parquet")
        ids = {item: np.load(folder / "watched" / f"{item}.npy").tolist() for item in ITEMS}
        for item, table in ITEMS.items():
            entries = list(enumerate(chain.vocabulary(name, table), 1))
            rows = {value: row for row, (value, _, _) in entries if value is not None}
            values = raw[f"item_{item}"].to_pylist()
            assert ids[item] == [rows.get(value, 0) for value in values], (name, item)
            # Values whose row another value has now.
            reused += sum(owners[item].get(row, value) != value for value, row in rows.items())
            owners[item] |= {row: value for value, row in rows.items()}
        parts = pa.concat_tables(read(chain.root / name, split) for split in SPLITS)
        columns = (parts[column].to_pylist() for column in ("row", "watched_begin", "watched_end"))
        for number, begin, end in zip(*columns, strict=True):
            stored = [
                list(items.values())
                for items in raw.slice(begin, end - begin).drop_columns(["key", "time"]).to_pylist()
            ]
            assert stored == watched(chain, by_number[number], last_day), (name, number)
        assert list(dataset_problems(chain.root / name)) == []
    assert reused > 5
