"""Raw logs with everything that a preparation has, and a run over them; the test day is ordered by user, as its split.

So the rows of the last day's file, taken as raw logs, are those of the test split, in the same batches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.run import Options, prepare
from ple_rec.cli import main
from ple_rec.training.run import train
from tests.data_prep.plain_logs import DAY_1, DAY_MS
from tests.reports.without_charts import without_charts
from tests.training.small import small_config

ROWS, GROUP_ROWS, LAST = 70, 16, 4
TOML = """
name = "feed"
group = ["user_id", "time.day"]

[log]
files = ["log"]
where = "spam = 0"

[sides.videos]
files = ["videos.parquet"]
on = {video = "video_id"}

[sides.users]
files = ["users.csv"]
on = {user_id = "user_id"}
day = "since"

[time]
value = "time_ms"
unit = "ms"
utc_offset = "+08:00"

[derived]
minutes = "videos.length / 60"
liked = "is_like = 1"

[split]
by = "day"
train = [1, 2]
valid = [3, 3]
test = [4, 4]

[checks]
label = "is_like >= 0"

[tables.video_id]
min_count = 2
capacity = 20
overflow = "hash"
hash_rows = 4

[[sparse]]
name = "user_id"

[[sparse]]
name = "video_id"

[[sparse]]
name = "hour"
value = "time.hour"

[[sparse]]
name = "city"
value = "users.city"

[[sparse]]
name = "price_bin"
value = "price"
quantiles = 4

[[sparse]]
name = "tags"
value = "videos.tags"
bag = true
max_length = 2
weights = "videos.tag_weights"

[[sparse]]
name = "history"
table = "video_id"
bag = true

[[dense]]
name = "price"

[[dense]]
name = "minutes"
normaliser = "log"

[[tasks]]
name = "like"
kind = "binary"
label = "liked"

[[tasks]]
name = "watch"
kind = "regression"
label = "watched"
space = "is_click = 1"
"""
TASKS = ["like", "watch", "score"]
FIRST_USER = 7_012_345_678_901_234_567  # JavaScript takes the next one for it
LABELS = ("is_like", "is_click", "watched")


def day_of(day: int) -> pa.Table:
    """One day, from 1; users and videos of the last one are partly new, some values are missing."""
    rng = np.random.default_rng(day)
    user = rng.integers(0, 9 + 3 * (day == LAST), ROWS)
    user = np.sort(user) if day == LAST else user
    video = rng.integers(0, 12 + 6 * (day == LAST), ROWS)
    histories = [None if n == 0 else [f"v{v}" for v in rng.integers(0, 18, n - 1)] for n in rng.integers(0, 5, ROWS)]
    return pa.table(
        {
            "user_id": FIRST_USER + user,
            "video_id": [None if i % 17 == 3 else f"v{v}" for i, v in enumerate(video)],
            "time_ms": DAY_1 + (day - 1) * DAY_MS - 8 * 3_600_000 + np.arange(ROWS) * 1_200_000,
            "price": pa.array([None if i % 11 == 5 else float(p) for i, p in enumerate(rng.normal(size=ROWS))]),
            "history": pa.array(histories, pa.list_(pa.string())),
            "spam": rng.integers(0, 8, ROWS) // 7,
            "is_like": (user + video) % 2,
            "is_click": rng.integers(0, 2, ROWS),
            "watched": rng.normal(size=ROWS),
        }
    )


def write_logs(root: Path) -> Path:
    """`raw/log/day <n>.parquet`, `raw/videos.parquet`, `raw/users.csv` and `feed.toml` below `root`."""
    (root / "raw" / "log").mkdir(parents=True)
    for day in range(1, LAST + 1):
        pq.write_table(day_of(day), log_of(root, day), row_group_size=GROUP_ROWS)
    rng = np.random.default_rng(0)
    videos = [f"v{v}" for v in range(16)]
    tags = [None if i % 5 == 4 else [f"t{t}" for t in rng.integers(0, 6, i % 4)] for i in range(len(videos))]
    weights = [None if each is None else rng.normal(size=len(each)).tolist() for each in tags]
    length = [None if i == 7 else 30.0 * i for i in range(len(videos))]
    table = pa.table({"video": videos, "tags": tags, "tag_weights": weights, "length": length})
    pq.write_table(table, root / "raw" / "videos.parquet")
    since = [
        f"{FIRST_USER + user},2022-04-{15 + later:02d},city {(user + later) % 4}"
        for user in range(10)
        for later in (0, 3)
    ]
    (root / "raw" / "users.csv").write_text("\n".join(["user_id,since,city", *since]) + "\n")
    (root / "feed.toml").write_text(TOML)
    return root


def log_of(root: Path, day: int) -> Path:
    """The log of a day."""
    return root / "raw" / "log" / f"day {day}.parquet"


def train_feed(root: Path, steps: int = 6, **changed: Any) -> Path:
    """`data`, prepared from the logs below `root` where it is not there, and `run`, trained on it.

    Args:
        root: Of both.
        steps: Of training.
        changed: Further keys of `train`.
    """
    if not (root / "data").exists():
        prepare(str(root / "feed.toml"), root / "data", Options(source=str(root / "raw"), threads=1))
    changes = {"train": {"steps": steps, "evaluate_every": 3} | changed, "checkpoint": {"keep": 5}}
    with without_charts():
        train(small_config(root / "data", changes), root / "run")
    return root / "run"


def predict(feed: Path, out: Path, *argv: str, code: int = 0) -> pa.Table:
    """`ple-rec predict` of the run, which ends with `code`; its output, if it has one."""
    assert main(["predict", str(feed / "run"), "--out", str(out), *argv]) == code
    return pq.read_table(out) if code == 0 else pa.table({})


def raw(feed: Path, out: Path, data: str | Path, *argv: str, code: int = 0) -> pa.Table:
    """The same of raw logs."""
    return predict(feed, out, "--data", str(data), "--from", str(feed / "raw"), *argv, code=code)


def same(one: pa.Table, other: pa.Table) -> bool:
    """Whether all predictions have the same bits."""
    return all(one[name].combine_chunks().equals(other[name].combine_chunks()) for name in TASKS)
