"""Random logs with rates of every kind, and a reference that computes the rates row by row, in pandas."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.run import EngineName, Options, prepare

DAY_1 = 19_000  # 2022-01-08
TOML = """
name = "rates"
group = "user_id"

[log]
files = ["log"]

[sides.users]
files = ["users.parquet"]
on = {user_id = "user_id"}

[time]
value = "time_s"
unit = "s"

[derived]
city = "users.city"

[split]
by = "day"
train = [4, 7]
valid = [8, 8]
test = [9, 9]

[[sparse]]
name = "user_id"

[[sparse]]
name = "likes"
value = "by_video_id.video_like"
quantiles = 3

[[dense]]
name = "price"

[[rates]]
name = "video_like"
key = ["video_id"]
of = "is_like"
window = "2d"
prior = 3

[[rates]]
name = "all_video_like"
key = ["video_id"]
of = "is_like"
window = "all"
delay = "2d"
prior = 0.5

[[rates]]
name = "video_shown"
key = ["video_id"]
window = "3d"

[[rates]]
name = "city_price"
key = ["city", "tab > 0"]
of = "price"
unit = 0.01
window = "4d"
delay = "1d"
prior = 0

[[rates]]
name = "user_play"
key = ["user_id", "time.hour"]
of = "play_ms"
window = "all"

[[tasks]]
name = "like"
kind = "binary"
label = "is_like > 0"
space = "is_like is not null"

[carry]
row = "row"
video_shown_twice = "by_video_id.video_shown_count * 2"
"""
# A rate for the logs of `plain_logs`.
LIKE_RATE = '\n[[rates]]\nname = "video_like"\nkey = ["video_id"]\nof = "is_like"\nwindow = "1d"\nprior = 0\n'


def random_log(seed: int, days: int = 10, rows: int = 15) -> pd.DataFrame:
    """Impressions of some days in a random order of days, with nulls in keys and values."""
    rng = np.random.default_rng(seed)
    n = days * rows
    day = np.repeat(rng.permutation(days), rows)
    return pd.DataFrame(
        {
            "row": np.arange(n),
            "user_id": pd.array(rng.integers(0, 8, n), "Int64"),
            "video_id": [None if x == 0 else f"v{x}" for x in rng.integers(0, 6, n)],
            "time_s": (DAY_1 + day) * 86_400 + rng.integers(0, 86_400, n),
            "tab": rng.integers(0, 3, n),
            "price": np.where(rng.random(n) < 0.2, np.nan, rng.gamma(2, 10, n) - 3),
            "play_ms": rng.integers(-10, 9_000, n),
            "is_like": pd.array([None if x == 2 else x for x in rng.choice(3, n, p=(0.5, 0.4, 0.1))], "Int64"),
        }
    )


def write(root: Path, log: pd.DataFrame, files: int = 3) -> None:
    """Write a log in some files, and the side table of users."""
    (root / "raw" / "log").mkdir(parents=True, exist_ok=True)
    for i, rows in enumerate(np.array_split(np.arange(len(log)), files)):
        table = pa.Table.from_pandas(log.iloc[rows], preserve_index=False)
        prices = pa.array(table["price"].to_pandas(), pa.float64(), from_pandas=True)
        table = table.set_column(table.column_names.index("price"), "price", prices)
        pq.write_table(table, root / "raw" / "log" / f"{i}.parquet")
    users = pa.table({"user_id": list(range(7)), "city": [None, "a", "b", "a", "c", "b", "a"]})
    pq.write_table(users, root / "raw" / "users.parquet")
    (root / "rates.toml").write_text(TOML)


def prepared(root: Path, log: pd.DataFrame, *, engine: EngineName = "duckdb", threads: int = 1, files: int = 3) -> Path:
    """Write a log and its configuration, prepare them, and return the dataset directory."""
    write(root, log, files)
    prepare(str(root / "rates.toml"), root / "out", Options(source=str(root / "raw"), threads=threads, engine=engine))
    return root / "out"


def reference(log: pd.DataFrame) -> pd.DataFrame:
    """Return the features of the rates of `TOML` for each row of a log, by the definition of a rate."""
    cities = dict(enumerate([None, "a", "b", "a", "c", "b", "a"]))
    log = log.assign(
        day=log["time_s"] // 86_400,
        hour=log["time_s"] // 3_600 % 24,
        city=log["user_id"].map(cities),
        front=log["tab"] > 0,
        cents=pd.array([None if math.isnan(x) else math.floor(x / 0.01 + 0.5) for x in log["price"]], "Int64"),
    )
    columns: dict[str, list[Any]] = {"row": list(log["row"])}
    rows = log.astype(object).where(log.notna(), None).to_dict("records")

    def add(name: str, key: list[str], of: str | None, window: float, delay: int, prior: float, unit: float) -> None:
        def key_of(row: Mapping[Any, Any]) -> list[Any] | None:
            values = [row[column] for column in key]
            return None if None in values else values

        usable = [row for row in rows if key_of(row) is not None and row["day"] < DAY_1 + 9]
        values: list[float | None] = []
        counts: list[int | None] = []
        for row in rows:
            if key_of(row) is None:
                values.append(None)
                counts.append(None)
                continue
            seen = [other for other in usable if 1 <= row["day"] - delay - other["day"] <= window]
            same = [other for other in seen if key_of(other) == key_of(row)]
            if of is None:
                counts.append(len(same))
                continue
            of_all = [other[of] for other in seen if other[of] is not None]
            of_same = [other[of] for other in same if other[of] is not None]
            counts.append(len(of_same))
            below = len(of_same) + prior
            if len(of_all) == 0 or below == 0:
                values.append(None)
            else:
                mean = sum(of_all) / len(of_all)
                values.append((float(sum(of_same)) + prior * mean) / below * unit)
        if of is not None:
            columns[name] = values
        columns[f"{name}_count"] = counts

    # Keys, value, window, delay, prior and unit of each rate.
    add("video_like", ["video_id"], "is_like", 2, 0, 3.0, 1.0)
    add("all_video_like", ["video_id"], "is_like", math.inf, 2, 0.5, 1.0)
    add("video_shown", ["video_id"], None, 3, 0, 20.0, 1.0)
    add("city_price", ["city", "front"], "cents", 4, 1, 0.0, 0.01)
    add("user_play", ["user_id", "hour"], "play_ms", math.inf, 0, 20.0, 1.0)
    return pd.DataFrame(columns)
