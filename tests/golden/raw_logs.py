"""Raw logs of a made-up feed, from a fixed seed: six days and the next one as Parquet; users, and two days, as CSV."""

from __future__ import annotations

import csv
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FIRST_DAY = date(2024, 5, 1)
DAYS, ROWS, USERS, VIDEOS = 6, 64, 24, 40
NEXT_DAY = FIRST_DAY + timedelta(DAYS)
_AGES = ("under 18", "18 to 24", "", "45 and more")  # a missing one too
_DAY_MS = 86_400_000


def write_raw_logs(folder: Path) -> None:
    """Write all logs below `folder`: `log/`, `next/`, `log_csv/` and `users.csv`."""
    rng = np.random.default_rng(1)
    taste, style = rng.normal(size=(USERS, 2)), rng.normal(size=(VIDEOS, 2))
    length_ms = rng.integers(5, 60, VIDEOS) * 1_000
    for number in range(DAYS + 1):
        day = FIRST_DAY + timedelta(number)
        log = _impressions(rng, day, taste, style, length_ms)
        place = folder / ("next" if day == NEXT_DAY else "log") / f"day={day}"
        place.mkdir(parents=True)
        pq.write_table(log, place / "part-0.parquet")
        if number in (0, 1):
            _write_csv(folder / "log_csv" / f"{day}.csv", log)
    users = [{"user_id": _user_id(user), "age": _AGES[user % len(_AGES)]} for user in range(USERS)]
    _write_csv(folder / "users.csv", pa.Table.from_pylist(users))


def _user_id(user: int) -> int:
    return user * 1_000 + 17


def _impressions(
    rng: np.random.Generator, day: date, taste: np.ndarray, style: np.ndarray, length_ms: np.ndarray
) -> pa.Table:
    user = (USERS * rng.random(ROWS) ** 2).astype(int)
    video = rng.integers(0, VIDEOS, ROWS)
    watched = np.clip(0.5 + 0.25 * (taste[user] * style[video]).sum(1) + 0.05 * rng.normal(size=ROWS), 0.02, 1.2)
    click = watched > 0.4
    histories = [[f"v{v}" for v in rng.integers(0, VIDEOS, rng.integers(0, 5))] for _ in range(ROWS)]
    midnight = (day - date(1970, 1, 1)).days * _DAY_MS
    return pa.table(
        {
            "user_id": [_user_id(u) for u in user],
            "video_id": [f"v{v}" for v in video],
            "time_ms": midnight + np.sort(rng.integers(0, _DAY_MS, ROWS)),
            "tab": np.where(rng.random(ROWS) < 0.6, "auto", "click"),
            "history": pa.array(histories, pa.list_(pa.string())),
            "duration_ms": np.where(rng.random(ROWS) < 0.03, 0, length_ms[video]),  # 0 stands for unknown
            "play_time_ms": (watched * length_ms[video]).astype(int),
            "is_click": click.astype(int),
            "is_share": (click & (watched > 0.7)).astype(int),
        }
    )


def _write_csv(file: Path, table: pa.Table) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(table.column_names)
        for row in table.to_pylist():
            writer.writerow("|".join(cell) if isinstance(cell, list) else cell for cell in row.values())
