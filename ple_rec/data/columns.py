"""A row group as checked tensors, column-major, and what is taken from it.

Shape suffixes: N rows of a row group, F single-valued features, D dense features, K tasks, C slice columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ple_rec.config.schema import DenseFeature, SparseFeature, Task
from ple_rec.data import arrow
from ple_rec.data.arrow import BoolArray, FloatArray, IdArray, IntArray, placed
from ple_rec.data.requests import starts_of
from ple_rec.data.slices import CodeArray, Slicing


@dataclass(frozen=True)
class Bag:
    """A multi-valued column: row i holds `values[offsets[i]:offsets[i + 1]]`."""

    offsets: IntArray
    values: IdArray
    weights: FloatArray | None

    def take(self, rows: IntArray) -> Bag:
        """The given rows, in that order."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        index = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Bag(offsets, self.values[index], None if self.weights is None else self.weights[index])


@dataclass(frozen=True)
class Columns:
    """The columns of one row group that a run reads, in the order in which it reads its rows.

    `starts_N` tells where a request begins.
    """

    ids_FN: IdArray
    bags: tuple[Bag, ...]
    dense_ND: FloatArray
    labels_NK: FloatArray
    in_space_NK: FloatArray
    weight_N: FloatArray | None
    group_N: IntArray | None
    slices_NC: CodeArray | None = None
    starts_N: BoolArray | None = None

    def __len__(self) -> int:
        """N."""
        return len(self.labels_NK)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        bags = [array for bag in self.bags for array in vars(bag).values()]
        return sum(array.nbytes for array in [*vars(self).values(), *bags] if isinstance(array, np.ndarray))


@dataclass(frozen=True)
class Selection:
    """What a run reads of a dataset. Single-valued features come first: their ids are one block of a batch.

    `slices` is what evaluation reads beside the columns of the schema, `requests` names the features that all samples
    of a request share.
    """

    single: tuple[SparseFeature, ...]
    bags: tuple[SparseFeature, ...]
    dense: tuple[DenseFeature, ...]
    tasks: tuple[Task, ...]
    table_rows: dict[str, int]
    sample_weight: str | None
    group: str | None
    slices: tuple[Slicing, ...] = ()
    requests: tuple[str, ...] = ()

    @property
    def sparse(self) -> tuple[SparseFeature, ...]:
        """Every sparse feature, in the order of a batch's keys."""
        return self.single + self.bags

    def of_requests(self) -> Selection:
        """Of this, the features alone that all samples of a request share."""
        return Selection(
            single=tuple(f for f in self.single if f.name in self.requests),
            bags=tuple(f for f in self.bags if f.name in self.requests),
            dense=tuple(f for f in self.dense if f.name in self.requests),
            tasks=(),
            table_rows=self.table_rows,
            sample_weight=None,
            group=None,
            requests=self.requests,
        )

    def column_names(self) -> list[str]:
        """Parquet columns to read, of those that the schema names."""
        names: list[str | None] = [f.name for f in self.sparse]
        names += [f.name for f in self.dense]
        names += [bag.weights for bag in self.bags]
        for task in self.tasks:
            names += [task.label, task.space]
        names += [self.sample_weight, self.group]
        return list(dict.fromkeys(name for name in names if name is not None))

    def all_column_names(self) -> list[str]:
        """Parquet columns to read."""
        return list(dict.fromkeys([*self.column_names(), *(slicing.column.name for slicing in self.slices)]))


def columns_of(table: pa.Table, selection: Selection, place: str, rows_N: IntArray | None = None) -> Columns:
    """Check and convert a row group.

    Args:
        table: The row group's columns.
        selection: What to take of it.
        place: File and row group, for messages.
        rows_N: Indices of the rows to take, in order; None takes all rows in file order.

    Raises:
        DataError: an id outside its table, a label outside its range, a value that is not finite, a column of the
            wrong type.
    """
    source = arrow.Source(table, place)
    group_N = weight_N = None
    if selection.group is not None:
        group_N = placed(arrow.integers(source, selection.group, null=arrow.NO_GROUP), rows_N)
    labels_NK, in_space_NK = arrow.labels(source, selection.tasks)
    ids_FN = arrow.single_ids(source, selection.single, selection.table_rows, rows_N)
    bags = tuple(_bag(source, feature, selection) for feature in selection.bags)
    dense_ND = arrow.dense_values(source, [feature.name for feature in selection.dense])
    if selection.sample_weight is not None:
        weight_N = placed(arrow.sample_weights(source, selection.sample_weight), rows_N)
    slices_NC = np.stack([s.codes_of(table) for s in selection.slices], axis=1) if selection.slices else None
    bags = bags if rows_N is None else tuple(bag.take(rows_N) for bag in bags)
    dense_ND = placed(dense_ND, rows_N)
    return Columns(
        ids_FN=ids_FN,
        bags=bags,
        dense_ND=dense_ND,
        labels_NK=placed(labels_NK, rows_N),
        in_space_NK=placed(in_space_NK, rows_N),
        weight_N=weight_N,
        group_N=None if group_N is None else group_N.astype(np.int64, copy=False),
        slices_NC=None if slices_NC is None else placed(slices_NC, rows_N),
        starts_N=_starts_N(selection, ids_FN, bags, dense_ND) if selection.requests else None,
    )


def _starts_N(selection: Selection, ids_FN: IdArray, bags: Sequence[Bag], dense_ND: FloatArray) -> BoolArray:
    single = [i for i, feature in enumerate(selection.single) if feature.name in selection.requests]
    bags = [bag for bag, feature in zip(bags, selection.bags, strict=True) if feature.name in selection.requests]
    dense = [i for i, feature in enumerate(selection.dense) if feature.name in selection.requests]
    return starts_of(ids_FN[single], bags, dense_ND[:, dense])


def _bag(source: arrow.Source, feature: SparseFeature, selection: Selection) -> Bag:
    offsets, ids = arrow.bag_ids(source, feature, selection.table_rows)
    return Bag(offsets, ids, None if feature.weights is None else arrow.bag_weights(source, feature, offsets))
