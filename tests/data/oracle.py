"""What a batch must hold, row by row in plain Python, and exact comparison of batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ple_rec.config.base import Split
from ple_rec.data.batch import Batch
from ple_rec.data.columns import Selection
from ple_rec.data.dataset import DatasetDirectory

Row = dict[str, Any]


def rows_of(dataset: DatasetDirectory, split: Split) -> list[Row]:
    """The rows of a split, in file order."""
    tables = [pq.read_table(file) for file in dataset.files(split)]
    return pa.concat_tables([table.replace_schema_metadata(None) for table in tables]).to_pylist()


def check(batch: Batch, rows: Sequence[Row], selection: Selection, batch_size: int) -> None:
    """Fail unless `batch` holds `rows`, then padding."""
    assert batch.rows == len(rows)
    padding = batch_size - len(rows)
    if selection.sparse:
        assert batch.sparse is not None
        assert batch.sparse.keys() == [feature.name for feature in selection.sparse]
        assert batch.sparse.stride() == batch_size
        id_counts = [sum(len(ids_of(row, feature)) for row in rows) for feature in selection.sparse]
        assert batch.sparse.values().numel() == sum(id_counts)
        assert batch.sparse.length_per_key_or_none() == id_counts
        # Another device gets the counts, too, so that nothing has to be read from it.
        assert batch.to(torch.device("meta")).sparse.length_per_key_or_none() == id_counts  # type: ignore[union-attr]
        for feature in selection.sparse:
            jagged = batch.sparse[feature.name]
            bags = [ids_of(row, feature) for row in rows]
            assert jagged.lengths().tolist() == [len(bag) for bag in bags] + [0] * padding
            assert jagged.values().tolist() == [i for bag in bags for i in bag]
            if any(f.weights for f in selection.sparse):
                weights = [w for row in rows for w in weights_of(row, feature)]
                assert jagged.weights().tolist() == weights
            else:
                assert jagged.weights_or_none() is None
    else:
        assert batch.sparse is None
    dense = [[math.nan if row[f.name] is None else row[f.name] for f in selection.dense] for row in rows]
    assert same(batch.dense_BF, dense + [[0.0] * len(selection.dense)] * padding, len(selection.dense))
    inside = [[True if t.space is None else bool(row[t.space]) for t in selection.tasks] for row in rows]
    labels = [
        [row[t.label] if ok else 0.0 for t, ok in zip(selection.tasks, oks, strict=True)]
        for row, oks in zip(rows, inside, strict=True)
    ]
    none = [[0.0] * len(selection.tasks)] * padding
    assert same(batch.labels_BK, labels + none, len(selection.tasks))
    assert same(batch.in_space_BK, [[float(ok) for ok in oks] for oks in inside] + none, len(selection.tasks))
    assert (batch.weight_B is None) == (selection.sample_weight is None)
    if batch.weight_B is not None and selection.sample_weight is not None:
        assert batch.weight_B.tolist() == [row[selection.sample_weight] for row in rows] + [0.0] * padding
    assert (batch.group_B is None) == (selection.group is None)
    if batch.group_B is not None and selection.group is not None:
        groups = [-1 if row[selection.group] is None else row[selection.group] for row in rows]
        assert batch.group_B.tolist() == groups + [0] * padding


def ids_of(row: Row, feature: Any) -> list[int]:
    """The table rows that a row reads by `feature`."""
    value = row[feature.name]
    if feature.bag:
        return [i or 0 for i in value or []]
    return [value or 0]


def weights_of(row: Row, feature: Any) -> list[float]:
    """One weight for each of `ids_of`."""
    if feature.weights is None:
        return [1.0] * len(ids_of(row, feature))
    return [1.0 if w is None else w for w in row[feature.weights] or []]


def same(tensor: Tensor, rows: Sequence[Sequence[float]], width: int) -> bool:
    """Equal in every float32, NaN equal to NaN."""
    return np.array_equal(tensor.numpy(), np.array(rows, np.float32).reshape(len(rows), width), equal_nan=True)


def bits(batch: Batch) -> list[bytes]:
    """Every bit of a batch."""
    out = [str(batch.rows).encode()]
    if batch.sparse is not None:
        kjt = batch.sparse
        weights = kjt.weights_or_none()
        out += ["|".join(kjt.keys()).encode(), _bytes(kjt.values()), _bytes(kjt.lengths())]
        out.append(b"" if weights is None else _bytes(weights))
    for tensor in (batch.dense_BF, batch.labels_BK, batch.in_space_BK, batch.weight_B, batch.group_B):
        out.append(b"" if tensor is None else _bytes(tensor))
    return out


def _bytes(tensor: Tensor) -> bytes:
    return f"{tuple(tensor.shape)} {tensor.dtype} ".encode() + tensor.contiguous().numpy().tobytes()
