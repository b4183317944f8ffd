"""Arrow columns -> checked NumPy arrays.

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

NO_GROUP = -1  # the group of rows whose group is null

_MOST_ROWS = 1 << 31  # of a table, whose ids are int32

_AGAIN = "prepare the dataset again"


@dataclass(frozen=True)
class Source:
    """The columns of one row group.

    Args:
        table: The columns.
        place: File and row group, for messages.
    """

    table: pa.Table
    place: str

    def at(self, name: str, row: int | None = None) -> str:
        """Place of a column, or of one of its cells."""
        return f"{self.place}, column {name!r}" + ("" if row is None else f", row {row}")

    def array(self, name: str, kind: pa.DataType) -> pa.Array:
        """A column as one array of type `kind`; numbers become the nearest float where that is one.

        Raises:
            DataError: it does not hold numbers, or one of them is no `kind`.
        """
        return self._cast(name, self._whole(name), kind)

    def integers(self, name: str) -> pa.Array:
        """A column of integers as one array of its own type, or of int64 where that is none of signed integers.

        Raises:
            DataError: it does not hold integers of at most 64 bits.
        """
        array = self._whole(name)
        return self._cast(name, array, _signed(array.type))

    def lists(self, name: str, kind: pa.DataType | None = None) -> tuple[IntArray, pa.Array]:
        """Offsets from 0 and values of a column of lists of any of Arrow's layouts; null is empty.

        Values that no list holds (behind a null, outside a slice) are left out.

        Args:
            name: Of the column.
            kind: Type of the values; None for integers, as of `integers`.

        Raises:
            DataError: it does not hold lists of numbers, or one of them is no `kind`.
        """
        array = self._whole(name)
        if not _is_list(array.type):
            raise self._wrong_type(name, array.type, f"list<{kind or pa.int64()}>", "it has no lists")
        offsets = np.zeros(len(array) + 1, np.int64)
        np.cumsum(pc.list_value_length(array).fill_null(0).to_numpy(), out=offsets[1:])
        # Not the lists themselves: Arrow's conversion of list views to lists loses the last one.
        values = array.flatten()
        return offsets, self._cast(name, values, kind or _signed(values.type))

    def _whole(self, name: str) -> pa.Array:
        column = self.table.column(name)
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

    def _cast(self, name: str, array: pa.Array, kind: pa.DataType) -> pa.Array:
        if array.type == kind:
            return array
        if not _is_numeric(array.type):  # Arrow reads numbers from text, until a row has another text
            raise self._wrong_type(name, array.type, str(kind), "only numbers do")
        try:
            return array.cast(kind, safe=not pa.types.is_floating(kind))  # integers are rounded, as doubles are
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise self._wrong_type(name, array.type, str(kind), str(error)) from error

    def _wrong_type(self, name: str, found: pa.DataType, kind: str, reason: str) -> DataError:
        return DataError(self.at(name), f"type {found}", f"it must be {kind} or convert to it ({reason})", _AGAIN)


def _signed(kind: pa.DataType) -> pa.DataType:
    return kind if pa.types.is_signed_integer(kind) else pa.int64()


def _is_list(kind: pa.DataType) -> bool:
    layouts = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    views = (pa.types.is_list_view, pa.types.is_large_list_view)
    return any(test(kind) for test in (*layouts, *views))


def _is_numeric(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null)
    return any(test(kind) for test in tests)


def single_ids(source: Source, feature: SparseFeature, table_rows: dict[str, int]) -> AnyIdArray:
    """Return the ids of a single-valued feature, in the type of its column; null is row 0.

    Args:
        source: Row group.
        feature: One of its columns.
        table_rows: Rows of each table.

    Raises:
        DataError: an id outside its table, or a column that holds no integers.
    """
    column = source.integers(feature.name)
    ids_N: AnyIdArray = (column.fill_null(0) if column.null_count else column).to_numpy()
    if (row := _first_bad_id(ids_N, table_rows[feature.table])) is not None:
        raise _id_error(source, feature, row, int(ids_N[row]), table_rows)
    return ids_N


def bag_ids(source: Source, feature: SparseFeature, table_rows: dict[str, int]) -> tuple[IntArray, IdArray]:
    """Offsets (N + 1) and ids_V of a bag; a null bag is empty, a null id is row 0.

    Raises:
        DataError: an id outside its table, or a column that holds no lists of integers.
    """
    offsets, values = source.lists(feature.name)
    ids_V = (values.fill_null(0) if values.null_count else values).to_numpy()
    if (i := _first_bad_id(ids_V, table_rows[feature.table])) is not None:
        raise _id_error(source, feature, _row_of(offsets, i), int(ids_V[i]), table_rows)
    return offsets, ids_V.astype(np.int32, copy=False)


def bag_weights(source: Source, feature: SparseFeature, offsets: IntArray) -> FloatArray:
    """Weights_V of a weighted bag whose ids stand at `offsets`; a null weight is 1.

    Raises:
        DataError: a bag with another number of weights than ids, or a weight that is not finite.
    """
    assert feature.weights is not None
    own_offsets, values = source.lists(feature.weights, pa.float32())
    lengths, own_lengths = np.diff(offsets), np.diff(own_offsets)
    if (bad := lengths != own_lengths).any():
        row = int(bad.argmax())
        raise DataError(
            source.at(feature.weights, row),
            f"{own_lengths[row]} weight(s) for {lengths[row]} id(s) of {feature.name!r}",
            "a weighted bag has one weight per id",
            _AGAIN,
        )
    weights_V: FloatArray = values.fill_null(1.0).to_numpy()
    if (bad := ~np.isfinite(weights_V)).any():
        i = int(bad.argmax())
        raise DataError(
            source.at(feature.weights, _row_of(offsets, i)),
            f"got {weights_V[i]}",
            "the weights of a bag are finite or null (1)",
            "correct the weights and prepare the dataset again",
        )
    return weights_V


def dense_values(source: Source, name: str) -> FloatArray:
    """Return a dense feature, NaN where it is null.

    Raises:
        DataError: an infinite value, or a column that holds no numbers.
    """
    values_N = _floats(source, name)
    if (bad := np.isinf(values_N)).any():
        row = int(bad.argmax())
        raise DataError(
            source.at(name, row),
            f"got {values_N[row]}",
            "values must be finite or null",
            "correct the logs, or map such values to null, and prepare the dataset again",
        )
    return values_N


def sample_weights(source: Source, name: str) -> FloatArray:
    """weight_N.

    Raises:
        DataError: a weight that is null, infinite or negative.
    """
    weight_N = _floats(source, name)
    if (bad := ~((weight_N >= 0) & np.isfinite(weight_N))).any():
        row = int(bad.argmax())
        raise DataError(
            source.at(name, row),
            "no sample weight" if np.isnan(weight_N[row]) else f"sample weight {weight_N[row]}",
            "a sample weight is finite and at least 0",
            "correct the weights and prepare the dataset again",
        )
    return weight_N


def integers(source: Source, name: str, *, null: int) -> NDArray[np.integer]:
    """A column of integers of at most 64 bits, `null` where it is null.

    Raises:
        DataError: it does not hold integers.
    """
    column = source.integers(name)
    values: NDArray[np.integer] = (column.fill_null(null) if column.null_count else column).to_numpy()
    return values


def flags(source: Source, name: str) -> BoolArray:
    """Return a column of flags; null is false.

    Raises:
        DataError: it does not hold flags, nor numbers that are.
    """
    values_N: BoolArray = source.array(name, pa.bool_()).fill_null(False).to_numpy(zero_copy_only=False)
    return values_N


def labels(source: Source, task: Task, inside_N: BoolArray | None) -> FloatArray:
    """Return the labels of a task, 0 outside its sample space.

    Args:
        source: Row group.
        task: Task whose labels are a column of it.
        inside_N: Flag of each row in the sample space; None where all are.

    Raises:
        DataError: a label inside the sample space that is null, not finite, or (of a binary task) neither 0 nor 1.
    """
    label = _floats(source, task.label)
    good = np.isfinite(label) if task.kind == "regression" else (label == 0) | (label == 1)
    if inside_N is not None:
        good |= ~inside_N
    if not good.all():
        row = int(good.argmin())
        raise DataError(
            source.at(task.label, row),
            f"no label of task {task.name!r}" if np.isnan(label[row]) else f"label {label[row]} of task {task.name!r}",
            "a binary label is 0 or 1" if task.kind == "binary" else "a regression label is finite",
            "correct the label's definition, or leave the row out by the task's sample-space column, and prepare the "
            "dataset again",
        )
    return label if inside_N is None else np.where(inside_N, label, np.float32(0))


def _floats(source: Source, name: str) -> FloatArray:
    values: FloatArray = source.array(name, pa.float32()).to_numpy(zero_copy_only=False)
    return values


def _row_of(offsets: IntArray, value: int) -> int:
    return int(np.searchsorted(offsets, value, side="right")) - 1


def _first_bad_id(ids: AnyIdArray, rows: int) -> int | None:
    """Where the first id stands that is no row of a table."""
    wide = ids if ids.itemsize >= 4 else ids.astype(np.int32)
    rows = min(rows, _MOST_ROWS)
    # As unsigned numbers, the negative ones are too large.
    if wide.view(f"u{wide.itemsize}").max(initial=0) < rows:
        return None
    return int(((ids < 0) | (ids >= rows)).argmax())


def _id_error(source: Source, feature: SparseFeature, row: int, found: int, table_rows: dict[str, int]) -> DataError:
    return DataError(
        source.at(feature.name, row),
        f"id {found}",
        f"table {feature.table!r} has rows 0 to {min(table_rows[feature.table], _MOST_ROWS) - 1}",
        "prepare the dataset again; its vocabulary and its parts do not belong together",
    )
