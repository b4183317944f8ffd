"""Conversion of the Arrow columns of a row group to NumPy arrays, with a check of their values.

Each function converts one kind of column: ids, bags, dense features, weights, labels. A bag is a multi-valued feature,
with any number of ids in a row. An id is a row of an embedding table; row 0 of each table is for missing and unknown
values. An error names the file, the column and the row.

Shape suffixes: N rows, V values of all bags of a column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ple_rec.config.schema import SparseFeature, Task
from ple_rec.errors import DataError

IntArray = NDArray[np.int64]
IdArray = NDArray[np.int32]
AnyIdArray = NDArray[np.signedinteger]
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

# Value of the group column (for grouped AUC) in rows in which it is null.
NO_GROUP = -1

# Limit of the number of rows of a table, since ids are int32.
_MAX_ROWS = 1 << 31

_FIX = "prepare the dataset again"


@dataclass(frozen=True)
class RowGroupColumns:
    """Columns of one row group.

    Args:
        table: Columns as an Arrow table.
        place: File and row group, for messages.
    """

    table: pa.Table
    place: str

    def cell_place(self, name: str, row: int | None = None) -> str:
        """Return the place of a column, or of one of its cells, for messages."""
        return f"{self.place}, column {name!r}" + ("" if row is None else f", row {row}")

    def array(self, name: str, dtype: pa.DataType) -> pa.Array:
        """Return a column as one array of type `dtype`. Conversion to a float type rounds to the nearest value.

        Raises:
            DataError: The column does not have numbers, or one of them cannot be converted to `dtype`.
        """
        return self._convert(name, self._single_chunk(name), dtype)

    def integers(self, name: str) -> pa.Array:
        """Return a column of integers as one array of its own type, if that is signed, or else of int64.

        Raises:
            DataError: The column does not have integers, or one of them does not fit into int64.
        """
        array = self._single_chunk(name)
        return self._convert(name, array, _signed_type(array.type))

    def required_integers(self, name: str) -> IntArray:
        """Return a column of int64 without nulls.

        Raises:
            DataError: The column does not have integers, one of them does not fit into int64, or one is null.
        """
        array = self.array(name, pa.int64())
        if array.null_count:
            row = int(array.is_null().to_numpy(zero_copy_only=False).argmax())
            raise DataError(self.cell_place(name, row), "null", "every row has a number there", _FIX)
        values_N: IntArray = array.to_numpy()
        return values_N

    def lists(self, name: str, dtype: pa.DataType | None = None) -> tuple[IntArray, pa.Array]:
        """Return the offsets, beginning with 0, and the values of a column of lists in any of Arrow's layouts.

        A null list becomes an empty one. Values in Arrow's buffer that belong to a null list, or to rows outside the
        slice, are left out.

        Args:
            name: Name of the column.
            dtype: Type of the values, or None for the integer type that `integers` returns.

        Raises:
            DataError: The column does not have lists of numbers, or a number cannot be converted to `dtype`.
        """
        array = self._single_chunk(name)
        if not _is_list(array.type):
            raise self._wrong_type(name, array.type, f"list<{dtype or pa.int64()}>", "the column has no lists")
        offsets = np.zeros(len(array) + 1, np.int64)
        np.cumsum(pc.list_value_length(array).fill_null(0).to_numpy(), out=offsets[1:])
        # The values are converted without their lists, because Arrow's cast of list views to lists loses the last list.
        values = array.flatten()
        return offsets, self._convert(name, values, dtype or _signed_type(values.type))

    def fixed_lists(self, name: str, width: int) -> pa.FixedSizeListArray:
        """Return a column of float32 lists of one length as one array.

        Raises:
            DataError: A list has another length, or the column does not have lists of numbers.
        """
        array, kind = self._single_chunk(name), pa.list_(pa.float32(), width)
        if not _is_list(array.type) or not _is_numeric(array.type.value_type):
            raise self._wrong_type(name, array.type, f"fixed_size_list<float>[{width}]", "the column has no vectors")
        try:
            return array.cast(kind, safe=False)
        except pa.ArrowException as error:
            raise self._wrong_type(name, array.type, f"fixed_size_list<float>[{width}]", str(error)) from error

    def _single_chunk(self, name: str) -> pa.Array:
        column = self.table.column(name)
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

    def _convert(self, name: str, array: pa.Array, dtype: pa.DataType) -> pa.Array:
        if array.type == dtype:
            return array
        # Arrow would convert text that has numbers, and fail only at a row with other text.
        if not _is_numeric(array.type):
            raise self._wrong_type(name, array.type, str(dtype), "only numbers convert")
        try:
            # A safe cast to floats would refuse integers that are not exact floats. Here they are rounded.
            return array.cast(dtype, safe=not pa.types.is_floating(dtype))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise self._wrong_type(name, array.type, str(dtype), str(error)) from error

    def _wrong_type(self, name: str, actual: pa.DataType, dtype: str, reason: str) -> DataError:
        return DataError(
            self.cell_place(name), f"type {actual}", f"it must be {dtype} or convert to it ({reason})", _FIX
        )


def _signed_type(dtype: pa.DataType) -> pa.DataType:
    return dtype if pa.types.is_signed_integer(dtype) else pa.int64()


def _is_list(dtype: pa.DataType) -> bool:
    layouts = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    views = (pa.types.is_list_view, pa.types.is_large_list_view)
    return any(test(dtype) for test in (*layouts, *views))


def _is_numeric(dtype: pa.DataType) -> bool:
    if pa.types.is_dictionary(dtype):
        dtype = dtype.value_type
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null)
    return any(test(dtype) for test in tests)


def single_ids(source: RowGroupColumns, feature: SparseFeature, table_sizes: dict[str, int]) -> AnyIdArray:
    """Return the ids of a single-valued feature, in the type of its column; a null becomes id 0.

    Args:
        source: Columns of the row group.
        feature: Single-valued feature.
        table_sizes: Number of rows of each table, by its name.

    Raises:
        DataError: An id is outside its table, or the column does not have integers.
    """
    column = source.integers(feature.name)
    ids_N: AnyIdArray = (column.fill_null(0) if column.null_count else column).to_numpy()
    if (row := first_bad_id(ids_N, table_sizes[feature.table])) is not None:
        raise _id_error(source, feature, row, int(ids_N[row]), table_sizes)
    return ids_N


def bag_ids(source: RowGroupColumns, feature: SparseFeature, table_sizes: dict[str, int]) -> tuple[IntArray, IdArray]:
    """Return the offsets (N + 1) and ids_V of a bag; a null bag becomes an empty one, and a null id becomes id 0.

    Raises:
        DataError: An id is outside its table, or the column does not have lists of integers.
    """
    offsets, values = source.lists(feature.name)
    ids_V = (values.fill_null(0) if values.null_count else values).to_numpy()
    if (i := first_bad_id(ids_V, table_sizes[feature.table])) is not None:
        raise _id_error(source, feature, _row_of_value(offsets, i), int(ids_V[i]), table_sizes)
    return offsets, ids_V.astype(np.int32, copy=False)


def bag_weights(source: RowGroupColumns, feature: SparseFeature, offsets: IntArray) -> FloatArray:
    """Return the weights_V of a weighted bag; a null weight becomes 1.

    Args:
        source: Columns of the row group.
        feature: Weighted bag.
        offsets: Offsets of the bag's ids (N + 1).

    Raises:
        DataError: A bag has another number of weights than ids, a weight is not finite, or the column does not have
            lists of numbers.
    """
    assert feature.weights is not None
    weight_offsets, values = source.lists(feature.weights, pa.float32())
    lengths, weight_lengths = np.diff(offsets), np.diff(weight_offsets)
    if (bad := lengths != weight_lengths).any():
        row = int(bad.argmax())
        raise DataError(
            source.cell_place(feature.weights, row),
            f"{weight_lengths[row]} weight(s) for {lengths[row]} id(s) of {feature.name!r}",
            "a weighted bag has one weight per id",
            _FIX,
        )
    weights_V: FloatArray = values.fill_null(1.0).to_numpy()
    if (bad := ~np.isfinite(weights_V)).any():
        i = int(bad.argmax())
        raise DataError(
            source.cell_place(feature.weights, _row_of_value(offsets, i)),
            f"got {weights_V[i]}",
            "the weights of a bag are finite, or null, which means 1",
            "correct the weights and prepare the dataset again",
        )
    return weights_V


def dense_values(source: RowGroupColumns, name: str) -> FloatArray:
    """Return the values of a dense feature, with NaN for null.

    Raises:
        DataError: A value is infinite, or the column does not have numbers.
    """
    values_N = _floats(source, name)
    if (bad := np.isinf(values_N)).any():
        row = int(bad.argmax())
        raise DataError(
            source.cell_place(name, row),
            f"got {values_N[row]}",
            "values must be finite or null",
            "correct the logs, or replace such values by null, and prepare the dataset again",
        )
    return values_N


def vector_values(source: RowGroupColumns, name: str, width: int) -> FloatArray:
    """Return the vectors of a column (N, width), with NaN for null.

    The array shares Arrow's memory if the lists have a fixed size and no vector is null.

    Raises:
        DataError: A vector has another length or a number that is null or not finite, or the column does not have lists
            of numbers.
    """
    array = source.fixed_lists(name, width)
    values_NW: FloatArray = array.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    good_N = np.isfinite(values_NW).all(axis=1)
    if array.null_count:
        present_N = array.is_valid().to_numpy(zero_copy_only=False)
        all_NW = np.full((len(array), width), np.nan, np.float32)
        all_NW[present_N] = values_NW
        values_NW, good_N = all_NW, np.isfinite(all_NW).all(axis=1) | ~present_N
    if not good_N.all():
        row = int(good_N.argmin())
        raise DataError(
            source.cell_place(name, row),
            f"got {values_NW[row][~np.isfinite(values_NW[row])][0]} among the numbers of the vector",
            "a vector is null, or all its numbers are finite",
            "correct the logs, or replace such vectors by null, and prepare the dataset again",
        )
    return values_NW


def frozen_rows(source: RowGroupColumns, name: str, rows: int) -> IdArray:
    """Return a column of rows of a frozen table, which has the rows 1 to `rows`; a null becomes 0, a missing vector.

    Raises:
        DataError: A row is outside the table, or the column does not have integers.
    """
    column = source.integers(name)
    rows_N: AnyIdArray = (column.fill_null(0) if column.null_count else column).to_numpy()
    if (row := first_bad_id(rows_N, rows + 1)) is not None:
        rule = f"the frozen table of {name!r} has the rows 1 to {rows}, and 0 is a missing vector"
        raise DataError(source.cell_place(name, row), f"row {rows_N[row]}", rule, _FIX)
    return rows_N.astype(np.int32, copy=False)


def sample_weights(source: RowGroupColumns, name: str) -> FloatArray:
    """Return the sample weight of each row.

    Raises:
        DataError: A weight is null, infinite or negative, or the column does not have numbers.
    """
    weight_N = _floats(source, name)
    if (bad := ~((weight_N >= 0) & np.isfinite(weight_N))).any():
        row = int(bad.argmax())
        raise DataError(
            source.cell_place(name, row),
            "no sample weight" if np.isnan(weight_N[row]) else f"sample weight {weight_N[row]}",
            "a sample weight is finite and at least 0",
            "correct the weights and prepare the dataset again",
        )
    return weight_N


def integers(source: RowGroupColumns, name: str, *, null: int) -> NDArray[np.integer]:
    """Return a column of integers, with the argument `null` in place of null values.

    Raises:
        DataError: The column does not have integers, or one of them does not fit into int64.
    """
    column = source.integers(name)
    values: NDArray[np.integer] = (column.fill_null(null) if column.null_count else column).to_numpy()
    return values


def flags(source: RowGroupColumns, name: str) -> BoolArray:
    """Return a column of flags; null is false.

    Raises:
        DataError: The column has neither booleans nor numbers that convert to them.
    """
    values_N: BoolArray = source.array(name, pa.bool_()).fill_null(False).to_numpy(zero_copy_only=False)
    return values_N


def labels(source: RowGroupColumns, task: Task, inside_N: BoolArray | None) -> FloatArray:
    """Return the labels of a task, with 0 outside its sample space, which is the rows that the task is learned from.

    Args:
        source: Columns of the row group.
        task: Task with the name of the label column.
        inside_N: Flag of each row, True in the task's sample space; None if all rows are in it.

    Raises:
        DataError: A label in the sample space is null, not finite, or, for a binary task, neither 0 nor 1; or the
            column does not have numbers.
    """
    label = _floats(source, task.label)
    good = np.isfinite(label) if task.kind == "regression" else (label == 0) | (label == 1)
    if inside_N is not None:
        good |= ~inside_N
    if not good.all():
        row = int(good.argmin())
        raise DataError(
            source.cell_place(task.label, row),
            f"no label of task {task.name!r}" if np.isnan(label[row]) else f"label {label[row]} of task {task.name!r}",
            "a binary label is 0 or 1" if task.kind == "binary" else "a regression label is finite",
            "correct the label's definition, or exclude the row by the task's sample-space column, and prepare the "
            "dataset again",
        )
    return label if inside_N is None else np.where(inside_N, label, np.float32(0))


def _floats(source: RowGroupColumns, name: str) -> FloatArray:
    values: FloatArray = source.array(name, pa.float32()).to_numpy(zero_copy_only=False)
    return values


def _row_of_value(offsets: IntArray, i: int) -> int:
    """Return the row whose list holds value i of all values."""
    return int(np.searchsorted(offsets, i, side="right")) - 1


def first_bad_id(ids: AnyIdArray, rows: int) -> int | None:
    """Return the index of the first id that is negative or at least `rows`; None if all ids are rows of the table."""
    widened = ids if ids.itemsize >= 4 else ids.astype(np.int32)
    rows = min(rows, _MAX_ROWS)
    # Reinterpreted as unsigned, a negative id exceeds every row, so one pass over the ids finds both kinds of errors.
    if widened.view(f"u{widened.itemsize}").max(initial=0) < rows:
        return None
    return int(((ids < 0) | (ids >= rows)).argmax())


def _id_error(
    source: RowGroupColumns, feature: SparseFeature, row: int, actual: int, table_sizes: dict[str, int]
) -> DataError:
    return DataError(
        source.cell_place(feature.name, row),
        f"id {actual}",
        f"table {feature.table!r} has rows 0 to {min(table_sizes[feature.table], _MAX_ROWS) - 1}",
        "prepare the dataset again, since its schema and its Parquet files do not belong together",
    )
