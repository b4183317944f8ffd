"""A dataset with vectors whose labels are functions of them: one in the rows, one in a frozen table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_prep.output.parts import write_part
from data_prep.output.writer import finish
from ple_rec.config.base import Split
from ple_rec.config.schema import (
    DatasetSchema,
    DenseFeature,
    SparseFeature,
    SplitInfo,
    Table,
    Task,
    VectorFeature,
    VectorTable,
)

TASTE, CONTENT = 3, 4  # Widths.
VIDEOS, USERS = 30, 20
ROWS: dict[Split, int] = {"train": 512, "valid": 128, "test": 128}
GROUP_ROWS = 32
FINGERPRINT = "vectors"


def content_table(seed: int = 1) -> NDArray[np.float32]:
    """Vectors of the videos from row 1 on."""
    return np.random.default_rng(seed).normal(2.0, 3.0, (VIDEOS, CONTENT)).astype(np.float32)


def vector_rows(rows: int, seed: int) -> dict[str, NDArray[Any]]:
    """Columns of a split: `taste` has NaN in missing rows, and `content` is a row of the frozen table, 0 for none.

    Each user has a `taste` that all rows of a request share. The label is the sign of a sum of products.
    """
    rng = np.random.default_rng(seed)
    user = np.repeat(rng.integers(0, USERS, -(-rows // 4)), 4)[:rows].astype(np.int32)
    taste = np.random.default_rng(2).normal(size=(USERS, TASTE)).astype(np.float32)[user]
    taste[user % 7 == 3] = np.nan
    content = rng.integers(0, VIDEOS + 1, rows).astype(np.int32)
    table = np.concatenate([np.zeros((1, CONTENT), np.float32), content_table()])
    score = table[content] @ np.array([1.0, -1.0, 0.5, 0.0]) + 4 * np.nan_to_num(taste)[:, 0]
    return {
        "user": user,
        "age": rng.normal(size=rows).astype(np.float32),
        "taste": taste,
        "content": content,
        "liked": (score > 1).astype(np.float32),
        "seconds": (0.3 * score).astype(np.float32),
    }


def arrow_rows(columns: dict[str, NDArray[Any]]) -> pa.Table:
    """The rows as the Parquet files have them."""
    taste = columns["taste"]
    lists = pa.FixedSizeListArray.from_arrays(
        pa.array(np.nan_to_num(taste).ravel()), TASTE, mask=pa.array(np.isnan(taste[:, 0]))
    )
    return pa.table({name: lists if name == "taste" else column for name, column in columns.items()})


def write_vectors(folder: Path, normalisers: tuple[str, str] = ("unit", "standard")) -> Path:
    """Write the dataset to a new folder."""
    splits = {split: SplitInfo(rows=rows, row_groups=rows // GROUP_ROWS) for split, rows in ROWS.items()}
    schema = DatasetSchema(
        version=1,
        name="vectors",
        fingerprint=FINGERPRINT,
        tables=(Table(name="user", rows=USERS),),
        sparse=(SparseFeature(name="user", table="user"),),
        dense=(DenseFeature(name="age", normaliser="none"),),
        vectors=(
            VectorFeature(name="taste", width=TASTE, normaliser=normalisers[0]),  # type: ignore[arg-type]
            VectorFeature(
                name="content",
                width=CONTENT,
                normaliser=normalisers[1],  # type: ignore[arg-type]
                table=VectorTable(keys=("id",), rows=VIDEOS),
            ),
        ),
        tasks=(
            Task(name="liked", kind="binary", label="liked"),
            Task(name="watch", kind="regression", label="seconds"),
        ),
        splits=splits,
    )
    for i, (split, rows) in enumerate(ROWS.items()):
        (folder / split).mkdir(parents=True)
        write_part(folder / split / "part-00000.parquet", arrow_rows(vector_rows(rows, i)), FINGERPRINT, GROUP_ROWS)
    (folder / "vectors").mkdir()
    table = content_table()
    lists = pa.FixedSizeListArray.from_arrays(pa.array(table.ravel()), CONTENT)
    pq.write_table(
        pa.table({"key_id": pa.array(range(100, 100 + VIDEOS)), "vector": lists}),
        folder / "vectors" / "content.parquet",
        row_group_size=7,
    )
    train = {"mean": table.mean(0).tolist(), "std": table.std(0).tolist()}
    taste = vector_rows(ROWS["train"], 0)["taste"]
    taste = taste[~np.isnan(taste[:, 0])]
    stats = {
        "columns": {
            "content": {"train": train},
            "taste": {"train": {"mean": taste.mean(0).tolist(), "std": taste.std(0).tolist()}},
        }
    }
    finish(folder, schema, FINGERPRINT, stats)
    return folder


def vectors_of(columns: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """The vectors of all features side by side, NaN for missing ones."""
    table = np.concatenate([np.full((1, CONTENT), np.nan, np.float32), content_table()])
    return np.concatenate([columns["taste"], table[columns["content"]]], axis=1)


def normalised(vectors: NDArray[np.float32], kind: str, mean: Any, std: Any) -> NDArray[np.float64]:
    """The normaliser of a vector feature, row by row and number by number."""
    out = np.zeros(vectors.shape)
    for row, vector in enumerate(vectors.astype(np.float64).tolist()):
        if any(map(math.isnan, vector)):
            continue
        length = math.sqrt(sum(x * x for x in vector))
        for i, x in enumerate(vector):
            if kind == "standard":
                out[row, i] = (x - mean[i]) / std[i] if std[i] else 0.0
            else:
                out[row, i] = x / length if kind == "unit" and length else x
    return out
