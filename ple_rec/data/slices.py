"""Slices: rows told apart by the value of one column, with a code for each of its most frequent values.

Shapes: N rows, V shown values.
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

ROW_ZERO = "out of vocabulary or missing"  # how row 0 of a table reads
MOST_COUNTED = 65_536  # values whose counts are kept at a time


def kind_of(kind: pa.DataType) -> pa.DataType | None:
    """The one type as which columns of this type are compared; None where a row of it has not one plain value."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_date)
    if any(test(kind) for test in text):
        return pa.large_string()
    if pa.types.is_integer(kind) and not pa.types.is_uint64(kind):
        return pa.int64()
    return kind if pa.types.is_boolean(kind) or pa.types.is_uint64(kind) or pa.types.is_null(kind) else None


@dataclass(frozen=True)
class SliceColumn:
    """A column by whose values rows are told apart.

    Args:
        name: Of the column.
        kind: What `kind_of` says of its type.
        vocabulary: File with the raw values of a single-valued sparse feature, whose row 0 counts as missing; None for
            any other column. The file need not be there.
    """

    name: str
    kind: pa.DataType
    vocabulary: Location | None = None

    def plain(self, rows: pa.Table) -> pa.ChunkedArray:
        """The column of a row group as `kind`, null where it is missing."""
        column = rows.column(self.name).cast(self.kind)
        if self.vocabulary is None:
            return column
        return pc.if_else(pc.equal(column, 0), pa.scalar(None, self.kind), column)


@dataclass(frozen=True)
class Slicing:
    """A column and those of its values that are shown: row code v is value v, code V a missing value, V + 1 any other.

    Args:
        column: The column.
        values: The V values, the most frequent first.
    """

    column: SliceColumn
    values: pa.Array

    @property
    def codes(self) -> int:
        """V + 2."""
        return len(self.values) + 2

    def codes_of(self, rows: pa.Table) -> CodeArray:
        """Code_N of a row group."""
        column = self.column.plain(rows)
        codes = pc.fill_null(pc.index_in(column, value_set=self.values), len(self.values) + 1)
        codes_N: CodeArray = pc.if_else(pc.is_null(column), len(self.values), codes).to_numpy().astype(np.int16)
        return codes_N

    def entries(self) -> list[dict[str, Any]]:
        """What each code means, for people: `value`, and `missing` or `other`.

        A table's rows are said by their raw values, without a vocabulary by their numbers.

        Raises:
            DataError: a damaged vocabulary.
        """
        values = _readable(self.values)
        missing: dict[str, Any] = {"value": None, "missing": True}
        if self.column.vocabulary is not None:
            raw = raw_values(self.column.vocabulary, values)
            values = [raw.get(row, row) for row in values]
            missing = {"value": ROW_ZERO}
        return [*({"value": value} for value in values), missing, {"value": None, "other": True}]


class ValueCounts:
    """How often each value of a column occurs; of many values, the most frequent ones so far.

    Exact, and so the same in any order of rows and merges, up to `MOST_COUNTED` values. Beyond, memory stays bounded:
    a value whose rows come late and far between may be missed or counted too low, which depends on the order.
    """

    def __init__(self, column: SliceColumn) -> None:
        self.column = column
        self.table = pa.table({"value": pa.array([], column.kind), "count": pa.array([], pa.int64())})

    def add(self, rows: pa.Table) -> None:
        """Count the rows of a row group."""
        values, counts = pc.value_counts(self.column.plain(rows).drop_null()).flatten()
        self.merge(pa.table({"value": values, "count": counts}))

    def merge(self, table: pa.Table) -> None:
        """Add the `table` of other rows."""
        both = pa.concat_tables([self.table, table]).group_by("value").aggregate([("count", "sum")])
        merged = both.select(["value", "count_sum"]).rename_columns(["value", "count"])
        self.table = self._sorted(merged, MOST_COUNTED) if len(merged) > MOST_COUNTED else merged

    def slicing(self, shown: int) -> Slicing:
        """The `shown` most frequent values; of two that are equally frequent, the lesser comes first."""
        return Slicing(self.column, self._sorted(self.table, shown).column("value").combine_chunks())

    @staticmethod
    def _sorted(table: pa.Table, limit: int) -> pa.Table:
        return table.sort_by([("count", "descending"), ("value", "ascending")]).slice(0, limit)


def check_vocabulary(file: Location) -> None:
    """Refuse a vocabulary that is there and could not be read at the end of a run.

    Raises:
        DataError: it is damaged.
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
    """Table row -> raw value, of those of `rows` that the vocabulary has; nothing where there is no such file.

    Raises:
        DataError: it is damaged.
    """
    check_vocabulary(file)
    if not file.exists():
        return {}
    try:
        found = pq.read_table(local_copy(file), columns=["raw", "row"], filters=pc.field("row").isin(list(rows)))
        return dict(zip(found["row"].to_pylist(), _readable(found["raw"]), strict=True))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _bad_vocabulary(file, f"unreadable ({error})") from error


def _bad_vocabulary(file: Location, value: str) -> DataError:
    return DataError(
        str(file),
        value,
        "a vocabulary has the columns raw and row, from which the names of a slice come",
        "copy it again, or remove it, and rows are named by their numbers",
    )


def _readable(values: pa.Array | pa.ChunkedArray) -> list[Any]:
    """As bool, int or text; bytes that are no UTF-8 are replaced."""
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return [None if x is None else x.decode(errors="replace") for x in values.cast(pa.large_binary()).to_pylist()]
    return [x if isinstance(x, bool | int | None) else str(x) for x in values.to_pylist()]
