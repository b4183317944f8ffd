"""Small feed logs and the configuration that prepares them, with every kind of column that there is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.output.summary import Summary
from ple_rec.config.prep import PrepConfig

DAY_1 = 1_650_000_000_000 // 86_400_000 * 86_400_000  # ms; a Friday, 2022-04-15 UTC
DAY_MS = 86_400_000

TOML = """
name = "small-feed"
group = "user_id"
carry = {tab = "tab"}

[log]
files = ["log"]

[sides.users]
files = ["users.parquet"]
on = {user_id = "user_id"}

[time]
value = "time_ms"
unit = "ms"

[split]
by = "day"
train = [1, 2]
valid = [3, 3]
test = [4, 4]

[checks]
duration = "duration_ms >= 0"

[output]
part_rows = 200
row_group_rows = 50

[tables.video]
capacity = 100

[[sparse]]
name = "user_id"

[[sparse]]
name = "video_id"
table = "video"

[[sparse]]
name = "history"
table = "video"
bag = true
max_length = 3
weights = "history_weights"

[[sparse]]
name = "age"
value = "users.age"

[[sparse]]
name = "hour"
value = "time.hour"

[[sparse]]
name = "folder"
value = "shard"

[[sparse]]
name = "duration_bucket"
value = "duration_ms"
quantiles = 5

[[dense]]
name = "price"
normaliser = "log"

[[tasks]]
name = "valid_view"
kind = "binary"
label = "play_time_ms > threshold"
threshold = {value = "play_time_ms", quantile = 0.7, by = "duration_ms", bins = 4}

[[tasks]]
name = "completion"
kind = "regression"
label = "clip(play_time_ms / duration_ms, 0, 1)"
space = "duration_ms > 0"
minimum = 0.0
maximum = 1.0

[[tasks]]
name = "share"
kind = "binary"
label = "is_share"
space = "is_click = 1"
"""


def log_of(day: int, rows: int = 300, users: int = 50, videos: int = 40, seed: int = 0) -> pa.Table:
    """The impressions of one day, from 1, in order of time."""
    rng = np.random.default_rng([seed, day])
    lengths = rng.integers(0, 6, rows)
    click = rng.integers(0, 2, rows)
    return pa.table(
        {
            "user_id": rng.integers(0, users, rows) * 7_919,
            "video_id": [f"v{i}" for i in rng.zipf(1.5, rows) % videos],
            "time_ms": DAY_1 + (day - 1) * DAY_MS + np.sort(rng.integers(0, DAY_MS, rows)),
            "play_time_ms": rng.integers(0, 9_000, rows),
            "duration_ms": rng.integers(0, 9_000, rows),
            "is_click": click,
            "is_share": click * (rng.random(rows) < 0.2).astype(np.int64),
            "tab": rng.integers(0, 3, rows),
            "price": pa.array(rng.gamma(2, 10, rows).round(2), mask=rng.random(rows) < 0.1),
            "history": [[f"v{i}" for i in rng.zipf(1.5, n) % (videos + 20)] for n in lengths],
            "history_weights": [rng.random(n).round(3).tolist() for n in lengths],
        }
    )


def write_logs(root: Path, days: int = 4, **sizes: Any) -> Path:
    """Logs of so many days under `root`, a folder for each two of them, and the table of users; returns `root`."""
    for day in range(1, days + 1):
        folder = root / "log" / f"shard={(day - 1) // 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(log_of(day, **sizes), folder / f"day {day}.parquet", row_group_size=100)
    users = pa.table({"user_id": [i * 7_919 for i in range(45)], "age": [f"a{i % 7}" for i in range(45)]})
    pq.write_table(users, root / "users.parquet")
    return root


def write_toml(path: Path, *changes: tuple[str, str]) -> Path:
    """The configuration, with some text replaced."""
    text = TOML
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)
    return path


def only(config: PrepConfig, *names: str) -> PrepConfig:
    """The configuration with some of its features alone, for a preparation that takes less time."""
    sparse = tuple(feature for feature in config.sparse if feature.name in names)
    dense = tuple(feature for feature in config.dense if feature.name in names)
    used = {feature.table or feature.name for feature in sparse}
    tables = {name: table for name, table in config.tables.items() if name in used}
    return config.model_copy(update={"sparse": sparse, "dense": dense, "tables": tables})


def folder_of(summary: Summary) -> Path:
    """The dataset directory of a run on this machine."""
    assert isinstance(summary.out, Path)
    return summary.out


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read(folder: Path, split: str) -> pa.Table:
    """The rows of a split, in order."""
    return pa.concat_tables(pq.read_table(path) for path in sorted((folder / split).glob("*.parquet")))


def hashed_as_python(value: int | str, capacity: int, hash_rows: int) -> int:
    """The row of a value that overflows, by hashlib: among the last `hash_rows`, the first 7 digits of its MD5."""
    return capacity - hash_rows + int(hashlib.md5(str(value).encode()).hexdigest()[:7], 16) % hash_rows
