"""Write synthetic feed logs for `benchmarks.prep` and `benchmarks.rates`.

Few users and videos have most of the rows. `prep_toml` gives the configuration that prepares them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

FILE_ROWS = 2_500_000  # Largest number of rows of a file.
ROW_GROUP_ROWS = 250_000
DAYS = 8
# Largest values of the small columns, which take them in turn; the least value is 0.
SMALL_COLUMN_VALUES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
SMALL_COLUMNS, DENSE_COLUMNS = 22, 8
_FIRST_MS = 1_649_980_800_000  # 2022-04-15, UTC
_DAY_MS = 86_400_000
_SCRAMBLE = np.uint64(0x9E3779B97F4A7C15)  # Odd multiplier that scatters numbers: 2^64 divided by the golden ratio.


def write_logs(folder: Path, rows: int, users: int, videos: int, seed: int = 0) -> None:
    """Write Parquet files of 8 days with equal numbers of rows, in order of time.

    Every user and every video occurs. A power law distributes the other rows, so a few of them have most rows.

    Args:
        folder: Folder of the files; it is created.
        rows: Number of rows; at least as many as users and as videos.
        users: Number of distinct users.
        videos: Number of distinct videos.
        seed: Seed of the random numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = -(-rows // FILE_ROWS)
    for i in range(files):
        first, last = rows * i // files, rows * (i + 1) // files
        table = _file(first, last, rows, users, videos, seed)
        pq.write_table(table, folder / f"part-{i:04d}.parquet", row_group_size=ROW_GROUP_ROWS, compression="snappy")


def _file(first: int, last: int, rows: int, users: int, videos: int, seed: int) -> pa.Table:
    rng = np.random.default_rng([seed, first])
    count = last - first
    positions = np.arange(first, last, dtype=np.int64)
    day = positions * DAYS // rows
    duration = rng.integers(5_000, 60_000, count)
    click = rng.random(count) < 0.4
    columns: dict[str, NDArray[np.generic]] = {
        "user_id": _scrambled(_values_with_tail(positions, rows, users, rng)),
        "video_id": _scrambled(_values_with_tail(positions, rows, videos, rng)),
        "time_ms": _FIRST_MS + day * _DAY_MS + np.sort(rng.integers(0, _DAY_MS, count)),
    }
    for i in range(SMALL_COLUMNS):
        values = SMALL_COLUMN_VALUES[i % len(SMALL_COLUMN_VALUES)]
        columns[f"s{i}"] = np.minimum((rng.pareto(1.0, count) * values / 20).astype(np.int64), values)
    for i in range(DENSE_COLUMNS):
        columns[f"d{i}"] = np.round(rng.lognormal(3, 1, count)).astype(np.float32)
    columns["play_time_ms"] = (duration * rng.beta(0.5, 1, count)).astype(np.int64)
    columns["duration_ms"] = duration
    columns["is_click"] = click.astype(np.int8)
    columns["is_share"] = (click & (rng.random(count) < 0.02)).astype(np.int8)
    columns["is_comment"] = (click & (rng.random(count) < 0.03)).astype(np.int8)
    return pa.table(columns)


def _values_with_tail(
    positions: NDArray[np.int64], rows: int, values: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return a value for each row: every value occurs at least once, and all other rows follow a power law.

    Args:
        positions: Positions of the rows in the log.
        rows: Number of rows of the log.
        values: Number of distinct values, which are 0, 1, ...
        rng: Generator of random numbers.
    """
    first = (positions * values // rows) != ((positions + 1) * values // rows)
    tail = (rng.pareto(1.1, len(positions)) * 1_000).astype(np.int64) % values
    return np.where(first, positions * values // rows, tail)


def _scrambled(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return an id of up to 62 bits for each of the values 0, 1, ..., so that ids are neither small nor in order."""
    return ((values.astype(np.uint64) + np.uint64(1)) * _SCRAMBLE >> np.uint64(2)).astype(np.int64)


def prep_toml() -> str:
    """Return the prep.toml for the logs: 24 sparse features, 8 dense features and 4 tasks."""
    sparse = ["user_id", "video_id", *(f"s{i}" for i in range(SMALL_COLUMNS))]
    lines = [
        'name = "bench-feed"',
        'group = "user_id"',
        '[log]\nfiles = ["*.parquet"]',
        '[time]\nvalue = "time_ms"\nunit = "ms"',
        '[split]\nby = "day"\ntrain = [1, 6]\nvalid = [7, 7]\ntest = [8, 8]',
        '[checks]\nduration = "duration_ms > 0"',
        *(f'[[sparse]]\nname = "{name}"' for name in sparse),
        *(f'[[dense]]\nname = "d{i}"\nnormaliser = "log"' for i in range(DENSE_COLUMNS)),
        '[[tasks]]\nname = "valid_view"\nkind = "binary"\nlabel = "play_time_ms > 3000"',
        '[[tasks]]\nname = "completion"\nkind = "regression"\nlabel = "clip(play_time_ms / duration_ms, 0, 1)"',
        *(
            f'[[tasks]]\nname = "{name}"\nkind = "binary"\nlabel = "is_{name}"\nspace = "is_click = 1"'
            for name in ("share", "comment")
        ),
    ]
    return "\n".join(lines) + "\n"
