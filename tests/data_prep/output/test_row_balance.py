"""Every row of the log stands in a split or in a line of what was left out, whatever made it leave."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_prep.output.summary import Summary
from tests.data_prep.plain_logs import SIDE, TOML, Logs, day_of, with_column

DROP = ("on_bad_row=drop", "max_bad_fraction=0.9")
WHERE = 'log.where="duration_ms % 400 <> 0"'
KNOWN = 'log.where="price >= 0 and is_like <= 1"'
HASH = 'split={by="hash",value="user_id",valid=0.3,test=0.3}'
SAMPLING = 'sampling={keep="is_like = 1",rate=0.5,hash=["video_id"]}'

Row = dict[str, Any]
Spoil = Callable[[Logs], None]
Takes = Callable[[Row], bool]


def leave(logs: Logs) -> None:
    """Leave nothing to be dropped but what a configuration drops."""


def spoil(logs: Logs) -> None:
    """Null labels, numbers that are not finite, a broken check, a row that breaks three rules, a day in no split."""
    table = with_column(day_of(1), "is_like", {1: None, 2: None, 3: 7})
    logs.write(1, with_column(with_column(table, "price", {3: float("nan"), 5: float("nan")}), "duration_ms", {3: -1}))
    logs.spoil(2, "duration_ms", {4: -400, 5: -1, 6: None})
    logs.spoil(3, "time_ms", {0: None, 1: 5})
    logs.write(5, day_of(5))


def share(logs: Logs) -> None:
    """Users of whom some have no row in the side table."""
    logs.users([{"user_id": user, "age": 20 + user} for user in range(5)])


def takes_all(row: Row) -> bool:
    return True


def takes(row: Row) -> bool:
    """Whether `WHERE` takes a row."""
    return row["duration_ms"] is not None and row["duration_ms"] % 400 != 0


def is_known(row: Row) -> bool:
    """Whether `KNOWN` takes a row; not one of null or NaN."""
    return row["price"] >= 0 and row["is_like"] is not None and row["is_like"] <= 1


CASES: dict[str, tuple[Spoil, Takes, str, tuple[str, ...]]] = {
    "nothing": (leave, takes_all, TOML, ()),
    "where": (leave, takes, TOML, (WHERE,)),
    "where of nulls": (spoil, is_known, TOML, (*DROP, KNOWN)),
    "bad rows": (spoil, takes_all, TOML, DROP),
    "where and bad rows": (spoil, takes, TOML, (*DROP, WHERE)),
    "days in no split": (leave, takes_all, TOML, ("split.train=[2, 2]",)),
    "sampling, where and bad rows": (spoil, takes, TOML, (*DROP, WHERE, SAMPLING)),
    "by hash": (spoil, takes, TOML, (*DROP, WHERE, HASH)),
    "side table": (share, takes, TOML + SIDE, (WHERE,)),
}
FAST = ("where of nulls", "sampling, where and bad rows", "by hash", "side table")  # and all that the others drop
RUNS = [pytest.param(name, "duckdb", marks=[] if name in FAST else [pytest.mark.slow]) for name in CASES]
ON_SPARK = pytest.param("sampling, where and bad rows", "spark", marks=[pytest.mark.spark, pytest.mark.slow])


@pytest.mark.parametrize(("name", "engine"), [*RUNS, ON_SPARK])
def test_rows_in_are_rows_out_and_rows_told(name: str, engine: str, tmp_path: Path) -> None:
    change, taken, toml, overrides = CASES[name]
    logs = Logs(tmp_path, toml)
    change(logs)
    rows = [row for file in (logs.raw / "log").iterdir() for row in pq.read_table(file).to_pylist()]
    summary = logs.prepare(*overrides, engine=engine)
    written = sum(pq.read_table(logs.out / split).num_rows for split in ("train", "valid", "test"))
    left_out = Counter[str]()
    for each in summary.stats["dropped"]:
        left_out[each["reason"]] += each["rows"]
    assert written + left_out.total() == len(rows)
    by_where = sum(count for reason, count in left_out.items() if reason.startswith("not log.where: "))
    assert by_where == sum(not taken(row) for row in rows)
    assert told(summary) == (written, left_out.total())
    assert told(Summary.read(logs.out, reused=True)) == told(summary)


def told(summary: Summary) -> tuple[int, int]:
    """Rows of the splits, and rows that were left out, as the lines of a summary add up."""
    text = str(summary)
    written = re.findall(r"^  (?:train|valid|test) +([\d,]+) ", text, re.MULTILINE)
    left_out = re.findall(r"^  (?:left out[a-z ]*: |and )([\d,]+) rows[, ]", text, re.MULTILINE)
    return sum(int(each.replace(",", "")) for each in written), sum(int(each.replace(",", "")) for each in left_out)
