"""Logs with vectors: one in every row of the log, and one for each video of a side table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.data_prep.plain_logs import TOML, Logs, day_of

LOG_WIDTH, WIDTH = 3, 4
VECTORS = (
    TOML
    + f"""
[sides.videos]
files = ["videos.parquet"]
on = {{id = "video_id"}}

[[vectors]]
name = "taste"
width = {LOG_WIDTH}
normaliser = "unit"

[[vectors]]
name = "content"
value = "videos.embedding"
width = {WIDTH}
normaliser = "standard"
"""
)
# v1 has no vector, v4 is not in the side table, and no row of the log has v9. The first and the last have no key.
VIDEOS = [None, "v9", "v3", "v1", "v0", "v2", None]


def taste(row: int) -> list[float] | None:
    """The vector of a row of the log; each fifth is missing."""
    return None if row % 5 == 4 else [row / 8, -1.0, row % 3]


def content(video: str | None) -> list[float] | None:
    """The vector of a video."""
    if video == "v1":
        return None
    number = 7 if video is None else int(video[1:])
    return [number / 4, 1.0, -number, 2.0**number]


def vector_day(day: int) -> pa.Table:
    """A day with vectors in its rows."""
    rows = day_of(day)
    first = (day - 1) * len(rows)
    vectors = pa.array([taste(first + i) for i in range(len(rows))], pa.list_(pa.float64()))
    return rows.append_column("taste", vectors)


def write_videos(logs: Logs, rows: list[dict[str, Any]] | None = None) -> None:
    """Write the side table of videos."""
    rows = [{"id": video, "embedding": content(video)} for video in VIDEOS] if rows is None else rows
    pq.write_table(pa.Table.from_pylist(rows), logs.raw / "videos.parquet")


def vector_logs(root: Path, toml: str = VECTORS) -> Logs:
    """Logs of four days, with the side table of videos."""
    logs = Logs(root, toml)
    for day in range(1, 5):
        logs.write(day, vector_day(day))
    write_videos(logs)
    return logs


def column(table: pa.Table, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The vectors of a column in float32, NaN for a missing one."""
    width = table.schema.field(name).type.list_size
    return np.array([v or [np.nan] * width for v in table[name].to_pylist()], np.float32)
