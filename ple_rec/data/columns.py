"""A row group as checked tensors, column-major, and what is taken from it.

Shape suffixes: N rows of a row group, F single-valued features, D dense features, K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ple_rec.config.schema import DenseFeature, SparseFeature, Task
from ple_rec.errors import DataError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Bag:
    """A multi-valued column: row i holds `values[offsets[i]:offsets[i + 1]]`."""

    offsets: IntArray
    values: IntArray
    weights: FloatArray | None

    def take(self, rows: IntArray) -> Bag:
        """The given rows, in that order."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        index = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Bag(offsets, self.values[index], None if self.weights is None else self.weights[index])


@dataclass(frozen=True)
class Columns:
    """The columns of one row group that a run reads."""

    ids_FN: IntArray
    bags: tuple[Bag, ...]
    dense_ND: FloatArray
    labels_NK: FloatArray
    in_space_NK: FloatArray
    weight_N: FloatArray | None
    group_N: IntArray | None

    def __len__(self) -> int:
        """N."""
        return len(self.labels_NK)

    def take(self, rows: IntArray) -> Columns:
        """The given rows, in that order."""
        return Columns(
            ids_FN=np.ascontiguousarray(self.ids_FN[:, rows]),
            bags=tuple(bag.take(rows) for bag in self.bags),
            dense_ND=self.dense_ND[rows],
            labels_NK=self.labels_NK[rows],
            in_space_NK=self.in_space_NK[rows],
            weight_N=None if self.weight_N is None else self.weight_N[rows],
            group_N=None if self.group_N is None else self.group_N[rows],
        )


@dataclass(frozen=True)
class Selection:
    """What a run reads of a dataset. Single-valued features come first: their ids are one block of a batch."""

    single: tuple[SparseFeature, ...]
    bags: tuple[SparseFeature, ...]
    dense: tuple[DenseFeature, ...]
    tasks: tuple[Task, ...]
    table_rows: dict[str, int]
    sample_weight: str | None
    group: str | None

    @property
    def sparse(self) -> tuple[SparseFeature, ...]:
        """Every sparse feature, in the order of a batch's keys."""
        return self.single + self.bags

    def column_names(self) -> list[str]:
        """Parquet columns to read."""
        names: list[str | None] = [f.name for f in self.sparse]
        names += [f.name for f in self.dense]
        names += [bag.weights for bag in self.bags]
        for task in self.tasks:
            names += [task.label, task.space]
        names += [self.sample_weight, self.group]
        return list(dict.fromkeys(name for name in names if name is not None))


def columns_of(table: pa.Table, selection: Selection, place: str) -> Columns:
    """Check and convert a row group.

    Args:
        table: The row group's columns.
        selection: What to take of it.
        place: File and row group, for messages.

    Raises:
        DataError: an id outside its table, a label outside its range, a value that is not finite, a column of the
            wrong type.
    """
    rows = table.num_rows
    in_space_NK, labels_NK = _labels(table, selection.tasks, place)
    return Columns(
        ids_FN=np.stack([_ids(table, f, selection, place) for f in selection.single])
        if selection.single
        else np.zeros((0, rows), np.int64),
        bags=tuple(_bag(table, f, selection, place) for f in selection.bags),
        dense_ND=np.stack([_dense(table, f.name, place) for f in selection.dense], axis=1)
        if selection.dense
        else np.zeros((rows, 0), np.float32),
        labels_NK=labels_NK,
        in_space_NK=in_space_NK,
        weight_N=None if selection.sample_weight is None else _weights(table, selection.sample_weight, place),
        group_N=None if selection.group is None else _group(table, selection.group, place),
    )


def _cast(table: pa.Table, name: str, kind: pa.DataType, place: str) -> pa.Array:
    column = table.column(name).combine_chunks()
    try:
        return column if column.type == kind else column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{place}, column {name!r}",
            f"type {column.type}",
            f"it must be {kind} or convert to it ({error})",
            "prepare the dataset again with `ple-rec prep`",
        ) from error


def _check_ids(ids: IntArray, feature: SparseFeature, selection: Selection, place: str) -> IntArray:
    rows = selection.table_rows[feature.table]
    if ids.size:
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= rows:
            raise DataError(
                f"{place}, column {feature.name!r}",
                f"id {low if low < 0 else high}",
                f"table {feature.table!r} has rows 0 to {rows - 1}",
                "prepare the dataset again; its vocabulary and its parts do not belong together",
            )
    return ids


def _ids(table: pa.Table, feature: SparseFeature, selection: Selection, place: str) -> IntArray:
    column = _cast(table, feature.name, pa.int64(), place).fill_null(0)
    return _check_ids(column.to_numpy(), feature, selection, place)


def _bag(table: pa.Table, feature: SparseFeature, selection: Selection, place: str) -> Bag:
    column = _cast(table, feature.name, pa.list_(pa.int64()), place)
    lengths = column.value_lengths().fill_null(0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values = _check_ids(column.flatten().fill_null(0).to_numpy(), feature, selection, place)
    weights = None
    if feature.weights is not None:
        weight_column = _cast(table, feature.weights, pa.list_(pa.float32()), place)
        if weight_column.value_lengths().fill_null(0).to_numpy().tolist() != lengths.tolist():
            raise DataError(
                f"{place}, column {feature.weights!r}",
                f"bags of other lengths than {feature.name!r}",
                "a weighted bag has one weight per id",
                "prepare the dataset again with `ple-rec prep`",
            )
        weights = _finite(weight_column.flatten().fill_null(1.0).to_numpy(), feature.weights, place)
    return Bag(offsets, values, weights)


def _finite(values: FloatArray, name: str, place: str, *, nan: bool = False) -> FloatArray:
    bad = np.isinf(values) if nan else ~np.isfinite(values)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"{place}, column {name!r}, row {row}",
            f"got {values[row]}",
            "values must be finite" + (" or null" if nan else ""),
            "correct the logs, or map such values to null, and prepare the dataset again",
        )
    return values


def _floats(table: pa.Table, name: str, place: str) -> FloatArray:
    values: FloatArray = _cast(table, name, pa.float32(), place).to_numpy(zero_copy_only=False)
    return values.astype(np.float32, copy=False)


def _dense(table: pa.Table, name: str, place: str) -> FloatArray:
    return _finite(_floats(table, name, place), name, place, nan=True)


def _weights(table: pa.Table, name: str, place: str) -> FloatArray:
    values = _finite(_floats(table, name, place), name, place)
    if values.size and values.min() < 0:
        row = int(values.argmin())
        raise DataError(
            f"{place}, column {name!r}, row {row}",
            f"sample weight {values[row]}",
            "a sample weight is at least 0",
            "correct the weights and prepare the dataset again",
        )
    return values


def _group(table: pa.Table, name: str, place: str) -> IntArray:
    values: IntArray = _cast(table, name, pa.int64(), place).fill_null(-1).to_numpy()
    return values


def _labels(table: pa.Table, tasks: Sequence[Task], place: str) -> tuple[FloatArray, FloatArray]:
    spaces, labels = [], []
    for task in tasks:
        space = np.ones(table.num_rows, np.float32)
        if task.space is not None:
            flags = _cast(table, task.space, pa.bool_(), place).fill_null(False)
            space = flags.to_numpy(zero_copy_only=False).astype(np.float32)
        label = _floats(table, task.label, place)
        allowed = np.isfinite(label) if task.kind == "regression" else (label == 0) | (label == 1)
        bad = (space > 0) & ~allowed
        if bad.any():
            row = int(bad.argmax())
            raise DataError(
                f"{place}, column {task.label!r}, row {row}",
                f"label {label[row]} of task {task.name!r}" if not np.isnan(label[row]) else f"no label of {task.name!r}",
                "a binary label is 0 or 1" if task.kind == "binary" else "a regression label is finite",
                "correct the label's definition, or leave the row out by the task's sample-space column, and prepare "
                "the dataset again",
            )
        spaces.append(space)
        labels.append(np.where(space > 0, label, np.float32(0)).astype(np.float32))
    return np.stack(spaces, axis=1), np.stack(labels, axis=1)
