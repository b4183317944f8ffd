"""Requests in the raw form to the model of the example `feed`, and rows of its side tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ple_rec.inference.manifest import MANIFEST, write_manifest
from ple_rec.inference.ranker import Ranker
from tests.inference.feed import FIRST_USER

USER = FIRST_USER + 2
TIME = {"time_ms": 1_650_000_000_000}
COLUMNS = ("length", "tags", "tag_weights")
VIDEO_COLUMNS = tuple(f"videos.{name}" for name in COLUMNS)


def columns_of_video(feed: Path, video: str | None) -> dict[str, Any]:
    """Columns of a video's row of the raw table, as a request has them; null without a row."""
    rows = {row["video"]: row for row in pq.read_table(feed / "raw" / "videos.parquet").to_pylist()}
    row = rows.get(video or "", dict.fromkeys(COLUMNS))
    return {f"videos.{name}": row[name] for name in COLUMNS}


def city_of(user: int) -> str:
    """City of a user's newest row."""
    return f"city {(user - FIRST_USER + 3) % 4}"


def rank(ranker: Ranker, user: Mapping[str, Any], items: object, **more: Any) -> dict[str, Any]:
    """Answer to a request in the raw form."""
    body = {"form": "raw", "user": user, "items": items, **more}
    return ranker.answer([ranker.read_rank(body)])[0]


def score(ranker: Ranker, rows: object) -> dict[str, Any]:
    """Scores of rows in the raw form."""
    return ranker.answer([ranker.read_score({"form": "raw", "rows": rows})])[0]


def describe_table(folder: Path, **values: Any) -> None:
    """Add values to the description of a version of a table."""
    info = folder / "table.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | values))
    (folder / MANIFEST).unlink()
    write_manifest(folder)
