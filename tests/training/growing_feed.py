"""Logs of ten days whose users and videos come and go, and the dataset of each day, appended to that of the day before.

Shape suffixes: R rows of a table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.run import Options, prepare

DAYS = 10
FIRST_DAYS = 3  # those of the first dataset, whose training split is the first of them
CAPACITY = {"user_id": 20, "video_id": 28}
HASH_ROWS = {"user_id": 0, "video_id": 4}
DAY_1 = 1_650_000_000_000 // 86_400_000 * 86_400_000  # ms; 2022-04-15 UTC
DAY_MS = 86_400_000

TOML = f"""
name = "growing"
group = "request_id"

[log]
files = ["log"]

[time]
value = "time_ms"
unit = "ms"

[split]
by = "day"
train = [1, 1]
valid = [2, 2]
test = [3, 3]

[append]
valid = 0.3
test = 0.3

[output]
row_group_rows = 8

[tables.user_id]
capacity = {CAPACITY["user_id"]}
ADMISSION

[tables.video_id]
capacity = {CAPACITY["video_id"]}
overflow = "hash"
hash_rows = {HASH_ROWS["video_id"]}
ADMISSION

[[sparse]]
name = "user_id"

[[sparse]]
name = "video_id"

[[dense]]
name = "price"

[[tasks]]
name = "like"
kind = "binary"
label = "is_like"
"""
ADMISSION = "admit = {count = 2, days = 2}\nexpire = {unseen_days = 2}"


def write_feed(folder: Path, seed: int, *, days: int = DAYS, admission: bool = True) -> list[Path]:
    """Write the logs and prepare a dataset for each day.

    Args:
        folder: Folder of logs and datasets.
        seed: Seed of the arrivals, the departures and the rows.
        days: Number of days.
        admission: True if rare values get no row, and values that are no longer seen lose theirs.

    Returns:
        Dataset of each day from `FIRST_DAYS` on.
    """
    rng = np.random.default_rng(seed)
    log = folder / "raw" / "log"
    log.mkdir(parents=True)
    present = {"user": rng.random(24) < 0.5, "video": rng.random(30) < 0.5}
    for day in range(1, days + 1):
        pq.write_table(_day(rng, day, present), log / f"day-{day}.parquet")
        for name, here_R in present.items():
            # About every fourth value leaves or arrives each day, and most of those that leave come back.
            present[name] = here_R ^ (rng.random(len(here_R)) < 0.25)
    (folder / "prep.toml").write_text(TOML.replace("ADMISSION", ADMISSION if admission else ""))
    datasets: list[Path] = []
    for day in range(FIRST_DAYS, days + 1):
        append: dict[str, Any] = {"append": f"day={day}", "parent": datasets[-1]} if datasets else {}
        datasets.append(folder / f"day-{day}")
        options = Options(source=str(folder / "raw"), threads=1, **append)
        prepare(str(folder / "prep.toml"), datasets[-1], options)
    return datasets


def _day(rng: np.random.Generator, day: int, present: dict[str, Any], rows: int = 80) -> pa.Table:
    users, videos = (rng.choice(np.flatnonzero(here_R), rows) for here_R in present.values())
    return pa.table(
        {
            "request_id": day * rows + np.arange(rows) // 4,
            "user_id": users,
            "video_id": [f"v{video}" for video in videos],
            "time_ms": DAY_1 + (day - 1) * DAY_MS + np.arange(rows) * 60_000,
            "price": rng.random(rows),
            "is_like": rng.integers(0, 2, rows),
        }
    )
