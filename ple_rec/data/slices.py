"""Slices, by which an evaluation divides the rows of a split, and the integer codes of their values.

A slice is the rows with one value of a column, such as one country. `ValueCounts` counts the values of a column, of
which the V most frequent get a code each (`Slicing`). All other values share one code, and missing values another.

Shape suffixes: N rows of a row group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ple_rec.errors import DataError
from ple_rec.storage import Location
from ple_rec.storage.cache import local_copy

CodeArray = NDArray[np.int16]

# Name of the slice with id 0, since row 0 of each embedding table is for missing and unknown values.
ROW_ZERO = "out of vocabulary or missing"
# Maximum number of different values that are counted, which bounds the memory.
MAX_COUNTED = 65_536


def comparison_type(arrow_type: pa.DataType) -> pa.DataType | None:
    """Return the type to which a column of this type is converted before its values are compared.

    Dates and texts become large strings, and integers int64. The result is None for a type that cannot define slices,
    such as lists and floats.
    """
    if pa.types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_date)
    if any(test(arrow_type) for test in text):
        return pa.large_string()
    if pa.types.is_integer(arrow_type) and not pa.types.is_uint64(arrow_type):
        return pa.int64()
    unchanged = (pa.types.is_boolean, pa.types.is_uint64, pa.types.is_null)
    return arrow_type if any(test(arrow_type) for test in unchanged) else None


@dataclass(frozen=True)
class SliceColumn:
    """Column whose values define slices.

    Args:
        name: Name of the column.
        kind: Arrow type to which the values are converted, see `comparison_type`.
        vocabulary: Vocabulary file of a single-valued sparse feature, with the raw value of each id. Id 0 then counts
            as missing. The file need not exist. None for other columns.
    """

    name: str
    kind: pa.DataType
    vocabulary: Location | None = None

    def read_values(self, rows: pa.Table) -> pa.ChunkedArray:
        """Return the values of the column in a row group, with type `kind`, and null for missing values."""
        column = rows.column(self.name).cast(self.kind)
        if self.vocabulary is None:
            return column
        return pc.if_else(pc.equal(column, 0), pa.scalar(None, self.kind), column)


@dataclass(frozen=True)
class Slicing:
    """Codes of the values of a column: v for `values[v]`, V for a missing value, and V + 1 for any other value.

    Args:
        column: Column whose values get codes.
        values: The V values with a code of their own, the most frequent first.
    """

    column: SliceColumn
    values: pa.Array

    @property
    def code_count(self) -> int:
        """Number of codes, V + 2."""
        return len(self.values) + 2

    def row_codes(self, rows: pa.Table) -> CodeArray:
        """Return the code of each row of a row group."""
        column = self.column.read_values(rows)
        codes = pc.fill_null(pc.index_in(column, value_set=self.values), len(self.values) + 1)
        codes_N: CodeArray = pc.if_else(pc.is_null(column), len(self.values), codes).to_numpy().astype(np.int16)
        return codes_N

    def entries(self) -> list[dict[str, Any]]:
        """Return a dictionary for each code, in order: its `value`, and the flag `missing` or `other` if it has none.

        An id of a sparse feature is replaced by its raw value, if the vocabulary has it. The missing value of such a
        feature, id 0, has no flag but the value `ROW_ZERO`.

        Raises:
            DataError: The vocabulary is damaged.
        """
        values = _plain_values(self.values)
        missing: dict[str, Any] = {"value": None, "missing": True}
        if self.column.vocabulary is not None:
            raw = raw_values(self.column.vocabulary, values)
            values = [raw.get(row, row) for row in values]
            missing = {"value": ROW_ZERO}
        return [*({"value": value} for value in values), missing, {"value": None, "other": True}]


class ValueCounts:
    """Counts of the values of a column.

    Up to `MAX_COUNTED` different values, the counts are exact and do not depend on the order of rows and merges. With
    more values, the rarest ones so far are dropped after each row group, so that memory stays bounded. Values that were
    dropped and occur again are then counted too low.

    Attributes:
        table: Columns `value` and `count`.
    """

    def __init__(self, column: SliceColumn) -> None:
        self.column = column
        self.table = pa.table({"value": pa.array([], column.kind), "count": pa.array([], pa.int64())})

    def add(self, rows: pa.Table) -> None:
        """Count the rows of a row group."""
        values, counts = pc.value_counts(self.column.read_values(rows).drop_null()).flatten()
        self.merge(pa.table({"value": values, "count": counts}))

    def merge(self, table: pa.Table) -> None:
        """Add the counts of other rows, in the form of the attribute `table`."""
        combined = pa.concat_tables([self.table, table]).group_by("value").aggregate([("count", "sum")])
        merged = combined.select(["value", "count_sum"]).rename_columns(["value", "count"])
        self.table = self._most_frequent(merged, MAX_COUNTED) if len(merged) > MAX_COUNTED else merged

    def slicing(self, limit: int) -> Slicing:
        """Return codes for the `limit` most frequent values; among equally frequent ones, the least first."""
        return Slicing(self.column, self._most_frequent(self.table, limit).column("value").combine_chunks())

    @staticmethod
    def _most_frequent(table: pa.Table, limit: int) -> pa.Table:
        return table.sort_by([("count", "descending"), ("value", "ascending")]).slice(0, limit)


def check_vocabulary(file: Location) -> None:
    """Check that a vocabulary, if it exists, has the columns `raw` and `row`. Its values are not read.

    A run calls this before it begins, since it reads the values only at its end.

    Raises:
        DataError: The vocabulary is damaged.
    """
    if not file.exists():
        return
    try:
        names = pq.read_schema(local_copy(file)).names
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _bad_vocabulary(file, f"unreadable ({error})") from error
    if missing := [name for name in ("raw", "row") if name not in names]:
        raise _bad_vocabulary(file, f"no column {', '.join(missing)}")


def raw_values(file: Location, rows: Sequence[int]) -> dict[int, Any]:
    """Return the raw values of ids, by id. Ids without a value in the vocabulary are left out.

    Args:
        file: Vocabulary file, with the columns `raw` and `row`.
        rows: Ids, that is, rows of the embedding table.

    Raises:
        DataError: The vocabulary is damaged.
    """
    check_vocabulary(file)
    if not file.exists():
        return {}
    try:
        condition = pc.field("row").isin(list(rows)) & pc.field("raw").is_valid()
        table = pq.read_table(local_copy(file), columns=["raw", "row"], filters=condition)
        return dict(zip(table["row"].to_pylist(), _plain_values(table["raw"]), strict=True))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _bad_vocabulary(file, f"unreadable ({error})") from error


def _bad_vocabulary(file: Location, value: str) -> DataError:
    return DataError(
        str(file),
        value,
        "a vocabulary has the columns raw and row, which give the slices their names",
        "copy it again, or remove it, so that slices are named by ids",
    )


def _plain_values(values: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return values as bool, int or text; bytes that are not UTF-8 are replaced."""
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return [None if x is None else x.decode(errors="replace") for x in values.cast(pa.large_binary()).to_pylist()]
    return [x if isinstance(x, bool | int | None) else str(x) for x in values.to_pylist()]
