"""A synthetic dataset directory of the feed schema: 24 ids, 8 dense features, 4 labels, 1 sample space.

Users and videos have vocabularies of millions and Zipf-like frequencies; the other ids have few values each, which
Parquet encodes by dictionary. The same arguments give the same rows.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w
from numpy.typing import NDArray

from ple_rec.config.schema import (
    FINGERPRINT_KEY,
    SCHEMA_FILE,
    STATS_FILE,
    SUCCESS_FILE,
    DatasetSchema,
    DenseFeature,
    SparseFeature,
    SplitInfo,
    Table,
    Task,
)

USERS, VIDEOS = 46_926_000, 2_682_000
ROW_GROUP_ROWS = 65_536
PART_ROWS = 16 * ROW_GROUP_ROWS
_LARGE = {"user": USERS, "video": VIDEOS}
_SMALL = (50_000, 20_000, 5_000, 2_000, 1_000, 1_000, 400, 400, 300, 200, 100, 100, 60, 50, 30, 24, 20, 12, 8, 7, 5, 3)
_FINGERPRINT = "synthetic-feed-1"


def feed_schema(rows: int) -> DatasetSchema:
    """The schema, with all rows in the training split."""
    sizes = _LARGE | {f"id_{i:02}": size for i, size in enumerate(_SMALL)}
    space = "clicked"
    return DatasetSchema(
        version=1,
        name="feed",
        fingerprint=_FINGERPRINT,
        tables=tuple(Table(name=name, rows=size + 1) for name, size in sizes.items()),
        sparse=tuple(SparseFeature(name=name, table=name) for name in sizes),
        dense=tuple(DenseFeature(name=f"x_{i}") for i in range(8)),
        tasks=(
            Task(name="valid_view", kind="binary", label="valid_view"),
            Task(name="completion", kind="regression", label="completion"),
            Task(name="share", kind="binary", label="share", space=space),
            Task(name="comment", kind="binary", label="comment", space=space),
        ),
        splits={"train": SplitInfo(rows=rows, row_groups=-(-rows // ROW_GROUP_ROWS))},
    )


def write_feed(path: Path, rows: int, seed: int = 0) -> None:
    """Write the dataset directory, a row group at a time.

    Args:
        path: The directory, which must be free.
        rows: Of the training split, its only one.
        seed: Of the rows.
    """
    schema = feed_schema(rows)
    (path / "train").mkdir(parents=True)
    for part, begin in enumerate(range(0, rows, PART_ROWS)):
        _write_part(path / "train" / f"part-{part:05}.parquet", schema, begin, min(rows, begin + PART_ROWS), seed)
    statistics = {feature.name: {"train": {"mean": 0.0, "std": 1.0}} for feature in schema.dense}
    (path / STATS_FILE).write_text(json.dumps({"columns": statistics}), encoding="utf-8")
    (path / SCHEMA_FILE).write_text(tomli_w.dumps(schema.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    (path / SUCCESS_FILE).touch()


def _write_part(file: Path, schema: DatasetSchema, begin: int, end: int, seed: int) -> None:
    small = [table.name for table in schema.tables if table.name not in _LARGE]
    metadata = {FINGERPRINT_KEY: schema.fingerprint.encode()}
    writer = None
    for start in range(begin, end, ROW_GROUP_ROWS):
        table = feed_rows(schema, min(ROW_GROUP_ROWS, end - start), (seed, start)).replace_schema_metadata(metadata)
        if writer is None:
            dictionary = [*small, *(task.label for task in schema.tasks)]
            writer = pq.ParquetWriter(
                file, table.schema, compression="zstd", compression_level=1, use_dictionary=dictionary
            )
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
    assert writer is not None
    writer.close()


def feed_rows(schema: DatasetSchema, rows: int, seed: tuple[int, int]) -> pa.Table:
    """Random rows of the schema."""
    rng = np.random.default_rng(seed)
    columns: dict[str, pa.Array] = {}
    for table in schema.tables:
        columns[table.name] = pa.array(_skewed(rng, table.rows, rows, 0.5 if table.name == "user" else 0.1))
    for i, feature in enumerate(schema.dense):
        # Logged numbers are durations and counts: few digits, some missing.
        values = np.round(rng.normal(size=rows), 2).astype(np.float32)
        columns[feature.name] = pa.array(values, mask=rng.random(rows) < 0.02 if i < 2 else None)
    clicked = rng.random(rows) < 0.3
    columns["valid_view"] = _flags(rng.random(rows) < 0.4)
    columns["completion"] = pa.array(np.round(rng.beta(1, 2, rows), 3).astype(np.float32))
    columns["share"] = _flags(clicked & (rng.random(rows) < 0.02))
    columns["comment"] = _flags(clicked & (rng.random(rows) < 0.03))
    columns["clicked"] = pa.array(clicked)
    return pa.table(columns)


def _flags(values: NDArray[np.bool_]) -> pa.Array:
    return pa.array(values.astype(np.float32))


def _skewed(rng: np.random.Generator, table_rows: int, count: int, power: float) -> NDArray[np.int32]:
    """Rows 1, 2, ... of a table, row r about as often as r^(power - 1); by the inverse of a continuous distribution."""
    ids_N = (1 + rng.random(count) * (float(table_rows) ** power - 1)) ** (1 / power)
    rows_N: NDArray[np.int32] = np.minimum(ids_N, table_rows - 1).astype(np.int32)
    return rows_N
