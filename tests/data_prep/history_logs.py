"""Random logs with histories of every kind, and a reference that finds the events of each row one by one, in pandas."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ple_rec.config.schema import LOG_TIME

DAY_1 = 19_000  # 2022-01-08
TOML = """
name = "histories"
group = "user_id"

[log]
files = ["log"]
where = "tab < 3"

[sides.users]
files = ["users.parquet"]
on = {user_id = "user_id"}

[time]
value = "time_ms"
unit = "ms"
utc_offset = "+08:00"

[split]
by = "day"
train = [4, 7]
valid = [8, 8]
test = [9, 9]

[tables.video]
min_count = 2
capacity = 9
overflow = "hash"
hash_rows = 2

[[sparse]]
name = "user_id"

[[sparse]]
name = "video_id"
table = "video"

[[sparse]]
name = "tab"

[[sparse]]
name = "price"
edges = [0, 10, 20]

[[rates]]
name = "video_like"
key = ["video_id"]
of = "is_like"
window = "2d"

[[histories]]
name = "liked"
key = "user_id"
items = ["video_id", "price", "tab"]
where = "is_like = 1"
length = 3
ages = ["1s", "1h", "1d"]

[[histories]]
name = "seen_in_city"
key = "users.city"
items = ["video_id"]
length = 50
delay = "1d"

[[histories]]
name = "popular"
key = "user_id"
items = ["tab"]
where = "by_video_id.video_like_count > 0"
length = 2
delay = "6h"

[[tasks]]
name = "like"
kind = "binary"
label = "is_like > 0"
space = "is_like is not null"

[carry]
row = "row"
raw_video_id = "video_id"
raw_tab = "tab"
raw_price = "price"
"""
# A history for the logs of `plain_logs`.
LIKED = """
[[histories]]
name = "liked"
key = "user_id"
items = ["video_id"]
where = "is_like = 1"
length = 3
"""
CITIES = dict(enumerate([None, "a", "b", "a", "c", "b", "a"]))
# Key, condition, items, length and delay in milliseconds of each history of `TOML` but `popular`.
HISTORIES: dict[str, tuple[str, str | None, list[str], int, int]] = {
    "liked": ("user_id", "is_like", ["video_id", "price", "tab"], 3, 0),
    "seen_in_city": ("city", None, ["video_id"], 50, 86_400_000),
}


def random_log(seed: int, days: int = 10, rows: int = 15) -> pd.DataFrame:
    """Impressions of some days in a random order of days, with nulls in keys and items, and with equal times."""
    rng = np.random.default_rng(seed)
    n = days * rows
    day = np.repeat(rng.permutation(days), rows)
    return pd.DataFrame(
        {
            "row": np.arange(n),
            "user_id": pd.array([None if x == 0 else x for x in rng.integers(0, 13, n)], "Int64"),
            "video_id": [None if x == 0 else f"v{x}" for x in rng.integers(0, 12, n)],
            "time_ms": (DAY_1 + day) * 86_400_000 + rng.integers(0, 40, n) * 1_000_000 + rng.integers(0, 2, n) * 400,
            "tab": rng.integers(0, 4, n),
            "price": np.where(rng.random(n) < 0.2, np.nan, rng.integers(-1, 4, n) * 8.0),
            "is_like": pd.array([None if x == 2 else x for x in rng.choice(3, n, p=(0.5, 0.4, 0.1))], "Int64"),
        }
    )


def write(root: Path, log: pd.DataFrame, files: int = 3, toml: str = TOML) -> None:
    """Write a log in some files, the side table of users, and the configuration."""
    (root / "raw" / "log").mkdir(parents=True, exist_ok=True)
    for i, rows in enumerate(np.array_split(np.arange(len(log)), files)):
        table = pa.Table.from_pandas(log.iloc[rows], preserve_index=False)
        prices = pa.array(table["price"].to_pandas(), pa.float64(), from_pandas=True)
        table = table.set_column(table.column_names.index("price"), "price", prices)
        pq.write_table(table, root / "raw" / "log" / f"{i}.parquet")
    users = pa.table({"user_id": list(CITIES), "city": list(CITIES.values())})
    pq.write_table(users, root / "raw" / "users.parquet")
    (root / "histories.toml").write_text(toml)


def reference(log: pd.DataFrame, name: str) -> dict[int, list[tuple[Any, ...]]]:
    """Return the history of each row by its number: the time in ms and the raw items of each event, the oldest first.

    The items of events with the same time are sorted, those without some items last.
    """
    key, condition, items, length, delay = HISTORIES[name]
    log = log.assign(city=log["user_id"].map(CITIES)).astype(object)
    log = log.where(log.notna(), None)
    log = log[log["tab"] < 3]
    local_days = log["time_ms"].map(lambda time: (time + 8 * 3_600_000) // 86_400_000)
    is_event = local_days.le(local_days.min() + 8) & log[key].notna()
    if condition is not None:
        is_event &= log[condition] == 1
    by_key: dict[Any, list[tuple[Any, ...]]] = {}
    for row in log[is_event].to_dict("records"):
        by_key.setdefault(row[key], []).append((row["time_ms"], *(row[item] for item in items)))

    def place(event: tuple[Any, ...]) -> tuple[Any, ...]:
        absent = [value is None for value in event[1:]]
        values = tuple(0 if value is None else value for value in event[1:])
        return (event[0], sum(2**i for i, each in enumerate(absent) if each), *values)

    out = {}
    for row in log.to_dict("records"):
        earlier = [event for event in by_key.get(row[key], ()) if event[0] < row["time_ms"] - delay]
        out[row["row"]] = sorted(earlier, key=place)[-length:]
    return out


def stored(folder: Path, rows: pa.Table, name: str) -> dict[int, list[tuple[int, ...]]]:
    """Return the history of each row by its number, from the files of a dataset: time in seconds and encoded items."""
    schema = tomllib.loads((folder / "schema.toml").read_text())
    (history,) = (each for each in schema["histories"] if each["name"] == name)
    columns = [LOG_TIME, *(item["feature"] for item in history["items"])]
    arrays = [np.load(folder / "histories" / name / f"{column}.npy", mmap_mode="r") for column in columns]
    assert {len(array) for array in arrays} == {history["events"]}
    events = list(zip(*(array.tolist() for array in arrays), strict=True))
    return {row["row"]: events[row[f"{name}_begin"] : row[f"{name}_end"]] for row in rows.to_pylist()}


def encoded(rows: pa.Table, history: dict[int, list[tuple[Any, ...]]], name: str) -> dict[int, list[tuple[int, ...]]]:
    """Return histories of `reference` in the form of `stored`; equal raw values have the id that they have in rows."""
    items = HISTORIES[name][2]
    ids = [dict(zip(rows[f"raw_{item}"].to_pylist(), rows[item].to_pylist(), strict=True)) for item in items]
    return {
        row: [
            (time // 1000, *(known[value] for known, value in zip(ids, values, strict=True))) for time, *values in each
        ]
        for row, each in history.items()
    }
