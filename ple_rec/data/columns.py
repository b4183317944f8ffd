"""Selection of the columns that a run reads, and the columns of a row group as checked arrays.

`decode` converts a row group from Arrow to `DecodedRows`: one array per column, in file order. `DecodedRows.arrange`
then stacks the columns as in a batch and puts the rows in the order of the epoch; the result is `Columns`.

A bag is a multi-valued feature, with any number of ids in a row. The sample space of a task is the rows that it is
learned from. A slice column is a column by which an evaluation divides the samples (`slices.py`). A request is
consecutive rows that are equal in the features that the configuration lists as shared (`requests.py`).

Shape suffixes: N rows, F single-valued features, D dense features, K tasks, C slice columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ple_rec.config.schema import (
    LOG_TIME,
    DatasetSchema,
    DenseFeature,
    HistoryFeature,
    SparseFeature,
    Task,
    VectorFeature,
    history_offsets,
)
from ple_rec.data import arrow
from ple_rec.data.arrow import AnyIdArray, BoolArray, FloatArray, IdArray, IntArray
from ple_rec.data.histories import HistoryColumn, HistoryEvents, read_history
from ple_rec.data.requests import request_starts
from ple_rec.data.slices import CodeArray, Slicing
from ple_rec.data.vectors import FrozenTable, VectorColumn, read_column
from ple_rec.errors import UserError
from ple_rec.text.suggest import did_you_mean


def select_columns(
    schema: DatasetSchema,
    dataset: str,
    drop: Sequence[str],
    tasks: Sequence[str],
    vectors: Sequence[str] | None = None,
) -> Selection:
    """Return the selection of the columns that a run reads, as yet without slice columns and requests.

    Args:
        schema: Schema of the dataset.
        dataset: Path of the dataset, for messages.
        drop: Names of features to leave out.
        tasks: Names of tasks in the run's order; empty for all tasks.
        vectors: Names of the vector features to read; None for all.

    Raises:
        UserError: The dataset has no feature or task of a given name, or no feature is left.
    """
    _check_names("data.drop", drop, schema.features(), dataset)
    if vectors is not None:
        _check_names("data.vectors", vectors, [vector.name for vector in schema.vectors], dataset, "vectors")
    tasks_by_name = {task.name: task for task in schema.tasks}
    _check_names("tasks", tasks, list(tasks_by_name), dataset)
    sparse = [f for f in schema.sparse if f.name not in drop]
    histories = tuple(
        history.model_copy(update={"items": items})
        for history in schema.histories
        if history.name not in drop and (items := tuple(i for i in history.items if i.feature not in drop))
    )
    chosen: tuple[Task, ...] = tuple(tasks_by_name[name] for name in tasks) or schema.tasks
    selection = Selection(
        single=tuple(f for f in sparse if not f.bag),
        bags=tuple(f for f in sparse if f.bag),
        dense=tuple(f for f in schema.dense if f.name not in drop),
        vectors=tuple(f for f in schema.vectors if f.name not in drop and (vectors is None or f.name in vectors)),
        histories=histories,
        tasks=chosen,
        table_rows=schema.table_rows(),
        sample_weight=schema.sample_weight,
        group=schema.group,
        subgroup=schema.subgroup,
        group_names=schema.group_names,
    )
    if not selection.features():
        raise UserError(
            "data.drop", "lists all features", "a model needs at least one", "remove a feature from the list"
        )
    return selection


def _check_names(key: str, names: Sequence[str], known: Sequence[str], dataset: str, kind: str = "features") -> None:
    for name in names:
        if name not in known:
            raise UserError(
                key,
                f"got {name!r}",
                f"{dataset} has {', '.join(known) or f'no {kind}'}",
                did_you_mean(name, known) or ("use one of these" if known else "leave the key out"),
            )


T = TypeVar("T")


@dataclass(frozen=True)
class BagColumn:
    """Multi-valued column; row i has the values `values[offsets[i]:offsets[i + 1]]`."""

    offsets: IntArray
    values: IdArray
    weights: FloatArray | None

    def take(self, rows: IntArray) -> BagColumn:
        """Return the rows with these indices, in this order."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        index = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return BagColumn(offsets, self.values[index], None if self.weights is None else self.weights[index])


@dataclass(frozen=True)
class Columns:
    """Columns of one row group, or of a part of its rows, in the order in which a run reads the rows.

    `ids_FN` and `bags` have the ids that a batch has in `sparse`. `in_space_NK` is 1 if the row is in the sample space
    of the task, else 0. The other fields have the meaning of those of `ple_rec.data.batch.Batch`, without padding.
    `starts_N` is a flag of each row, True if it begins a request; None if the run does not use requests.
    Batches look up the ids of `histories`, which have only the numbers of the events.
    """

    ids_FN: IdArray
    bags: tuple[BagColumn, ...]
    dense_ND: FloatArray
    labels_NK: FloatArray
    in_space_NK: FloatArray
    weight_N: FloatArray | None
    group_N: IntArray | None
    subgroup_N: IntArray | None = None
    vectors: tuple[VectorColumn, ...] = ()
    slices_NC: CodeArray | None = None
    starts_N: BoolArray | None = None
    histories: tuple[HistoryColumn, ...] = ()

    def __len__(self) -> int:
        """Return the number of rows N."""
        return len(self.labels_NK)

    @property
    def nbytes(self) -> int:
        """Total size of all arrays in bytes."""
        bags = [array for bag in self.bags for array in vars(bag).values()]
        arrays = [array for array in (*vars(self).values(), *bags) if isinstance(array, np.ndarray)]
        columns = [vectors.nbytes for vectors in self.vectors] + [history.nbytes for history in self.histories]
        return sum(array.nbytes for array in arrays) + sum(columns)


@dataclass(frozen=True)
class Selection:
    """Columns that a run reads.

    Args:
        single: Single-valued sparse features. They are apart from the bags, since their ids form one block of a batch.
        bags: Multi-valued sparse features.
        dense: Dense features.
        vectors: Vector features.
        histories: Histories, with the items whose features the run reads.
        vector_tables: Frozen tables of vector features, by name of the feature.
        tasks: Tasks, each with the names of its columns.
        table_rows: Number of rows of each embedding table, by its name.
        sample_weight: Name of the column of sample weights, or None.
        group: Name of the column with the groups of grouped AUC, or None.
        subgroup: Name of the column that divides the rows of a group further, or None.
        group_names: Names of the group and of the subgroup in results; None without a subgroup.
        slices: Slice columns, with the codes of their values. They need not be in the schema of the dataset.
        requests: Names of the features that the samples of a request share; empty if the run does not use requests.
        history_events: Events of each history of the dataset, by its name.
    """

    single: tuple[SparseFeature, ...]
    bags: tuple[SparseFeature, ...]
    dense: tuple[DenseFeature, ...]
    tasks: tuple[Task, ...]
    table_rows: dict[str, int]
    sample_weight: str | None
    group: str | None
    subgroup: str | None = None
    group_names: tuple[str, str] | None = None
    vectors: tuple[VectorFeature, ...] = ()
    vector_tables: Mapping[str, FrozenTable] = field(default_factory=dict)
    slices: tuple[Slicing, ...] = ()
    requests: tuple[str, ...] = ()
    histories: tuple[HistoryFeature, ...] = ()
    history_events: Mapping[str, HistoryEvents] = field(default_factory=dict)

    @cached_property
    def history_columns(self) -> tuple[SparseFeature, ...]:
        """Lists of table rows of all histories."""
        return tuple(column for history in self.histories for column in history.columns())

    @property
    def sparse(self) -> tuple[SparseFeature, ...]:
        """All sparse features and the columns of histories, in the order of a batch's keys."""
        return self.single + self.bags + self.history_columns

    @cached_property
    def shared_sparse(self) -> frozenset[str]:
        """Names of the sparse features and of the columns of histories that the samples of a request share."""
        shared_histories = (history for history in self.histories if history.name in self.requests)
        return frozenset(self.requests) | {column.name for each in shared_histories for column in each.columns()}

    @property
    def frozen_bytes(self) -> int:
        """Size of the frozen tables in memory, with row 0 of each."""
        frozen = [(feature.width, feature.table) for feature in self.vectors]
        return sum(4 * width * (table.rows + 1) for width, table in frozen if table is not None)

    def features(self) -> list[str]:
        """Return the names of all features: sparse ones, dense ones, vectors, histories."""
        sparse = self.single + self.bags
        return [feature.name for feature in (*sparse, *self.dense, *self.vectors, *self.histories)]

    def column_names(self) -> list[str]:
        """Return the names of the Parquet columns to read, without those of `slices`."""
        parquet = (*self.single, *self.bags, *self.dense, *self.vectors)
        names: list[str | None] = [feature.name for feature in parquet]
        names += [bag.weights for bag in self.bags]
        names += [LOG_TIME] if self.histories else []
        names += [offset for history in self.histories for offset in history_offsets(history.name)]
        for task in self.tasks:
            names += [task.label, task.space]
        names += [self.sample_weight, self.group, self.subgroup]
        return list(dict.fromkeys(name for name in names if name is not None))

    def all_column_names(self) -> list[str]:
        """Return the names of all Parquet columns to read."""
        return list(dict.fromkeys([*self.column_names(), *(slicing.column.name for slicing in self.slices)]))


@dataclass(frozen=True)
class DecodedRows:
    """Checked columns of a row group, in file order. An array shares Arrow's memory if it needed no conversion.

    `spaces` has, for each task, a flag of each row, True in the task's sample space; None if all rows are in it.
    """

    selection: Selection
    rows: int
    ids: tuple[AnyIdArray, ...]
    bags: tuple[BagColumn, ...]
    dense: tuple[FloatArray, ...]
    vectors: tuple[VectorColumn, ...]
    labels: tuple[FloatArray, ...]
    spaces: tuple[BoolArray | None, ...]
    weight_N: FloatArray | None
    group_N: NDArray[np.integer] | None
    subgroup_N: NDArray[np.integer] | None
    slices: tuple[CodeArray, ...]
    histories: tuple[HistoryColumn, ...] = ()

    def request_starts(self) -> BoolArray:
        """Return a flag of each row in file order, True if it begins a request."""
        return _request_starts(self.selection, self.ids, self.bags, self.dense, self.vectors, self.histories, self.rows)

    def arrange(self, rows_N: IntArray | None = None) -> Columns:
        """Return the columns in the layout of batches, that is, stacked.

        Args:
            rows_N: Indices of the rows to take, in this order; None for all rows in file order.
        """
        selection, rows = self.selection, self.rows if rows_N is None else len(rows_N)
        ids_FN = np.empty((len(self.ids), rows), np.int32)
        for ids_N, values in zip(ids_FN, self.ids, strict=True):
            if rows_N is None:
                ids_N[:] = values
            else:
                # All indices are in range. With `out`, NumPy's default mode "raise" would use a temporary buffer.
                values.astype(np.int32, copy=False).take(rows_N, out=ids_N, mode="wrap")
        bags = self.bags if rows_N is None else tuple(bag.take(rows_N) for bag in self.bags)
        dense_ND: FloatArray = _stack(self.dense, self.rows, rows_N, np.float32)
        vectors = self.vectors if rows_N is None else tuple(vector.take(rows_N) for vector in self.vectors)
        histories = self.histories if rows_N is None else tuple(history.take(rows_N) for history in self.histories)
        return Columns(
            ids_FN=ids_FN,
            bags=bags,
            dense_ND=dense_ND,
            labels_NK=_stack(self.labels, self.rows, rows_N, np.float32),
            in_space_NK=_stack(self.spaces, self.rows, rows_N, np.float32),
            weight_N=None if self.weight_N is None else _take_rows(self.weight_N, rows_N),
            group_N=_take_groups(self.group_N, rows_N),
            subgroup_N=_take_groups(self.subgroup_N, rows_N),
            vectors=vectors,
            slices_NC=_stack(self.slices, self.rows, rows_N, np.int16) if self.slices else None,
            starts_N=(
                _request_starts(selection, ids_FN, bags, dense_ND.T, vectors, histories, rows)
                if selection.requests
                else None
            ),
            histories=histories,
        )


def decode(table: pa.Table, selection: Selection, place: str) -> DecodedRows:
    """Check and convert the columns of a row group.

    Args:
        table: Columns of the row group.
        selection: Columns to convert.
        place: File and row group, for messages.

    Raises:
        DataError: An id is outside its table, a history is not within the stored events, a label or sample weight is
            missing or outside its range, a value is infinite, or a column has the wrong type.
    """
    source = arrow.RowGroupColumns(table, place)
    weight, tasks = selection.sample_weight, selection.tasks
    group_N, subgroup_N = (
        None if name is None else arrow.integers(source, name, null=arrow.NO_GROUP)
        for name in (selection.group, selection.subgroup)
    )
    # Several tasks may share a sample space, which is then decoded once.
    names = dict.fromkeys(task.space for task in tasks if task.space is not None)
    flags = {name: arrow.flags(source, name) for name in names}
    spaces = tuple(None if task.space is None else flags[task.space] for task in tasks)
    return DecodedRows(
        selection=selection,
        rows=table.num_rows,
        group_N=group_N,
        subgroup_N=subgroup_N,
        spaces=spaces,
        labels=tuple(arrow.labels(source, task, inside_N) for task, inside_N in zip(tasks, spaces, strict=True)),
        ids=tuple(arrow.single_ids(source, feature, selection.table_rows) for feature in selection.single),
        bags=tuple(_bag(source, feature, selection) for feature in selection.bags),
        dense=tuple(arrow.dense_values(source, feature.name) for feature in selection.dense),
        vectors=tuple(read_column(source, feature, selection.vector_tables) for feature in selection.vectors),
        weight_N=None if weight is None else arrow.sample_weights(source, weight),
        slices=tuple(slicing.row_codes(table) for slicing in selection.slices),
        histories=tuple(read_history(source, history, selection.history_events) for history in selection.histories),
    )


def _bag(source: arrow.RowGroupColumns, feature: SparseFeature, selection: Selection) -> BagColumn:
    offsets, ids = arrow.bag_ids(source, feature, selection.table_rows)
    return BagColumn(offsets, ids, None if feature.weights is None else arrow.bag_weights(source, feature, offsets))


def _take_rows(values: NDArray[Any], rows_N: IntArray | None) -> NDArray[Any]:
    return values if rows_N is None else values.take(rows_N)


def _take_groups(values: NDArray[np.integer] | None, rows_N: IntArray | None) -> IntArray | None:
    return None if values is None else _take_rows(values, rows_N).astype(np.int64, copy=False)


def _stack(
    columns: Sequence[NDArray[Any] | None], rows: int, rows_N: IntArray | None, dtype: type[np.generic]
) -> NDArray[Any]:
    """Stack columns of `rows` rows, with 1 in place of None; return the rows `rows_N` of the result, or all of them."""
    block = np.empty((rows, len(columns)), dtype)
    for i, column in enumerate(columns):
        block[:, i] = 1 if column is None else column
    # Taking whole rows of the stack is faster than taking rows of each column.
    return block if rows_N is None else block.take(rows_N, axis=0)


def _request_starts(
    selection: Selection,
    ids: Iterable[AnyIdArray],
    bags: Iterable[BagColumn],
    dense: Iterable[FloatArray],
    vectors: Iterable[VectorColumn],
    histories: Iterable[HistoryColumn],
    rows: int,
) -> BoolArray:
    """Return a flag of each row, True if it begins a request, by the features in `selection.requests`."""

    def select_shared(
        features: Sequence[SparseFeature | DenseFeature | VectorFeature | HistoryFeature], columns: Iterable[T]
    ) -> list[T]:
        pairs = zip(features, columns, strict=True)
        return [column for feature, column in pairs if feature.name in selection.requests]

    shared_vectors = select_shared(selection.vectors, vectors)
    shared_histories = select_shared(selection.histories, histories)
    return request_starts(
        [
            *select_shared(selection.single, ids),
            *(x_N for each in shared_histories for x_N in (each.begin_N, each.end_N, each.time_N)),
        ],
        select_shared(selection.bags, bags),
        [
            *select_shared(selection.dense, dense),
            *(x_N for each in shared_vectors for x_N in each.comparison_columns()),
        ],
        rows,
    )
