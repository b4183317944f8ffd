"""A small dataset as it is written to disk: Parquet parts with every kind of column, and its schema."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ple_rec.config.base import SPLITS, Split
from ple_rec.config.schema import DatasetSchema, DenseFeature, SparseFeature, SplitInfo, Table, Task

FIRST_DAY = 19_107  # 2022-04-25
ROWS: dict[Split, int] = {"train": 6000, "valid": 700, "test": 900}
TABS = ("follow", "for you", "nearby & <near>")


@dataclass(frozen=True)
class Feed:
    """Its schema, its rows, and where they lie."""

    folder: Path
    schema: DatasetSchema
    tables: dict[Split, pa.Table]

    def files(self, split: Split) -> list[Path]:
        return sorted((self.folder / split).glob("*.parquet"))

    @property
    def vocabularies(self) -> dict[str, Path]:
        return {file.stem: file for file in sorted((self.folder / "vocab").glob("*.parquet"))}


def write_feed(folder: Path, *, seed: int = 5, more_sparse: int = 0, more_dense: int = 0, days: int = 8) -> Feed:
    """Two tasks on all rows, two on the rows with a click, whose correlation depends on `tab`; `days` = 0: no time."""
    random = np.random.default_rng(seed)
    schema = feed_schema(more_sparse, more_dense)
    tables = {split: rows(split, random, schema, days) for split in SPLITS}
    for split, table in tables.items():
        (folder / split).mkdir(parents=True)
        half = len(table) // 2
        for part, piece in enumerate((table[:half], table[half:])):
            pq.write_table(piece, folder / split / f"part-{part:05}.parquet")
    (folder / "vocab").mkdir()
    users = np.bincount(tables["train"]["user"].to_numpy(), minlength=401)[1:]
    raw = pa.array([f"u{row}" for row in range(1, 401)])
    vocabulary = pa.table({"raw": raw, "row": np.arange(1, 401, dtype=np.int32), "count": users.astype(np.int64)})
    pq.write_table(vocabulary, folder / "vocab" / "user.parquet")
    counts = np.bincount(tables["train"]["tab"].to_numpy(), minlength=4)[1:]
    vocabulary = pa.table({"raw": list(TABS), "row": np.array([1, 2, 3], np.int32), "count": counts.astype(np.int64)})
    pq.write_table(vocabulary, folder / "vocab" / "tab.parquet")
    return Feed(folder, schema, tables)


def feed_schema(more_sparse: int, more_dense: int) -> DatasetSchema:
    names = {"user": 401, "tab": 4, "video": 60, **{f"feature_{i:02}": 3 + 5 * i for i in range(more_sparse)}}
    return DatasetSchema(
        version=1,
        name="feed",
        fingerprint="0123456789abcdef" * 4,
        tables=tuple(Table(name=name, rows=rows) for name, rows in names.items()),
        sparse=(
            *(SparseFeature(name=name, table=name) for name in names),
            SparseFeature(name="history", table="video", bag=True),
        ),
        dense=(
            DenseFeature(name="price", normaliser="log"),
            DenseFeature(name="age"),
            *(DenseFeature(name=f"number_{i:02}", normaliser="quantile") for i in range(more_dense)),
        ),
        tasks=(
            Task(name="click", kind="binary", label="click"),
            Task(name="watch", kind="regression", label="watch"),
            Task(name="share", kind="binary", label="share", space="clicked"),
            Task(name="rating", kind="regression", label="rating", space="rated"),
        ),
        splits={split: SplitInfo(rows=count, row_groups=2) for split, count in ROWS.items()},
    )


def rows(split: Split, random: np.random.Generator, schema: DatasetSchema, days: int) -> pa.Table:
    """Some rows of a split."""
    n = ROWS[split]
    columns: dict[str, object] = {}
    for name, size in schema.table_rows().items():
        drift = 0.15 if split != "train" and name == "video" else 0.0
        ids = (random.random(n) ** (1.5 + 4 * drift) * size).astype(np.int32)
        columns[name] = np.where(random.random(n) < 0.02 + drift, 0, ids).astype(np.int32)
    lengths = random.integers(0, 5, n)
    history = [None if k == 0 and i % 2 else random.integers(0, 60, k).tolist() for i, k in enumerate(lengths)]
    columns["history"] = pa.array(history, pa.list_(pa.int32()))
    tab = np.asarray(columns["tab"])
    for i, number in enumerate(schema.dense):
        x = np.exp(random.normal(1.0, 0.5 + i % 3, n)) * (1 if i % 2 == 0 else -1)
        x = np.where(random.random(n) < 0.3, np.round(x), x).astype(np.float32)
        columns[number.name] = pa.array(x, mask=random.random(n) < 0.03 * (i % 3))
    latent = random.normal(size=n)
    click = (latent + random.normal(size=n) > 0.3).astype(np.float32)
    sign = np.array([0.0, 0.9, 0.2, -0.5])[tab]
    watch = np.clip(0.5 + 0.2 * sign * latent + 0.1 * random.normal(size=n), 0, 1).astype(np.float32)
    share = ((random.random(n) < 0.08) & (click > 0)).astype(np.float32)
    share[:7] = 1  # some of them without a click
    rated = random.random(n) < 0.4
    rating = np.where(rated, np.round(3 + watch + random.normal(size=n), 1), np.nan).astype(np.float32)
    columns |= {"click": click, "watch": watch, "share": pa.array(share, mask=(click == 0) & (random.random(n) < 0.5))}
    columns |= {"clicked": click > 0, "rating": pa.array(rating, mask=~rated), "rated": rated}
    if days:
        last = {"train": days - 1, "valid": days, "test": days}[split]
        first = 0 if split == "train" else days - 1
        columns["log_day"] = (FIRST_DAY + random.integers(first, last, n)).astype(np.int32)
    columns["place"] = pa.array(np.array(["a", "b", "c d"])[random.integers(0, 3, n)].tolist())
    return pa.table(columns)
