"""Vectors: features whose values are lists of a fixed number of numbers, such as embeddings of the content.

The vectors of a log are columns of a dataset's parts. The vectors of a side table are stored once, in a frozen table
`vectors/<feature>.parquet`. Its rows are numbered from 1 in the order of the side table, and a part has the number of
each row's vector, 0 for a missing one. A frozen table has the vectors of all keys of the side table, and not only those
of keys that occur in training rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.sources.files import POSITION
from data_prep.sources.table import shown_value
from data_prep.transforms.expression_scope import SIDE_ROW, ColumnBuilder, as_float32, beyond_float32, readable_columns
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.side_tables import side_day
from ple_rec.config.prep import VectorSpec
from ple_rec.errors import DataError

DAY, VECTOR = "day", "vector"  # Columns of a frozen table; see `ple_rec.config.schema.VectorTable`.
_KEY = "key_"  # Prefix of the key columns of a frozen table.
_ROW = "__vector_row_"  # Prefix: `__vector_row_<feature>` is the row of a frozen table.
_POSITION = "__position_"  # Prefix: `__position_<feature>` is the position of the row in the side table.


def add_vector(builder: ColumnBuilder, i: int) -> None:
    """Add the column of the vector feature `vectors[i]` in float32, and the rule for its lists.

    Nothing is added if the feature has a frozen table; `FrozenVectors.with_rows` adds its column.
    """
    vector, key = builder.config.vectors[i], f"vectors[{i}].value"
    if vector.name in builder.resolved.frozen:
        return
    value = _lists_of_numbers(builder.build(key), key, builder.resolved)
    builder.columns[vector.name] = _as_float32(value)
    builder.columns[f"__{vector.name}"] = value
    builder.add_rule(key, _rule(vector), f"__{vector.name}", _is_bad(value, vector))


def _lists_of_numbers(value: ir.Value, key: str, resolved: Resolved) -> ir.ArrayValue:
    """Return the value of an expression, or raise an error if it is not a list of numbers."""
    numbers = (dt.Integer, dt.Floating, dt.Decimal)
    if isinstance(value, ir.ArrayValue) and isinstance(value.type().value_type, numbers):
        return value
    rule = "a vector is a list of numbers"
    raise resolved.wrong_type(key, value, rule, fix="write the vectors as lists of numbers, in Parquet files")


def _as_float32(value: ir.ArrayValue) -> ir.ArrayValue:
    if value.type().value_type == dt.float32:
        return value
    out: ir.ArrayValue = value.cast("array<float64>").map(as_float32)
    return out


def _rule(vector: VectorSpec) -> str:
    return f"a vector is missing, or has {vector.width} numbers that are finite in float32"


def _is_bad(value: ir.ArrayValue, vector: VectorSpec) -> ir.BooleanValue:
    """Return True where a list has another length, or a null or a number that is no finite float32; False for null."""
    bad = value.cast("array<float64>").filter(lambda x: x.isnull() | beyond_float32(x))
    return ((value.length() != vector.width) | (bad.length() > 0)).fill_null(False)


def refuse_bad_vectors(engine: Engine, rows: ir.Table, vector: VectorSpec, resolved: Resolved) -> None:
    """Raise an error if a row of a side table has a vector that breaks the rule for vectors.

    Args:
        engine: Engine that searches for such rows.
        rows: Rows of the side table.
        vector: Vector that has a frozen table.
        resolved: Configuration with its expressions, and the files of the side table.

    Raises:
        DataError: A vector breaks the rule; the error names its row.
    """
    side, column = resolved.frozen[vector.name]
    value = readable_columns(rows)[column]
    bad = rows.filter(_is_bad(value, vector)).select(POSITION, value=value).order_by(POSITION).limit(1)
    if first := engine.fetch(bad).to_pylist():
        place = f"{resolved.tables[side].locate(first[0][POSITION])}, column {column!r}"
        value_text = f"got {len(first[0]['value'])} numbers, {shown_value(first[0]['value'])}"
        rule = f"{_rule(vector)} (feature {vector.name!r})"
        raise DataError(place, value_text, rule, "correct or remove the row")


class FrozenVectors:
    """Frozen tables of a preparation.

    Args:
        engine: Engine that computes the tables.
        sides: Side tables by name, each with at most one row per key, or per key and day.
        resolved: Configuration with its expressions, and the files of the side tables.

    Attributes:
        vectors: Features that have a frozen table, by name.

    Raises:
        DataError: A column of vectors has another type, or a vector breaks the rule for vectors; the error names the
            file, and the row of such a vector.
    """

    def __init__(self, engine: Engine, sides: Mapping[str, ir.Table], resolved: Resolved) -> None:
        self.engine, self.resolved = engine, resolved
        self.vectors = {vector.name: vector for vector in resolved.config.vectors if vector.name in resolved.frozen}
        # By feature: rows of the side table that have a key and a vector, and the number of each by its position.
        self._rows: dict[str, ir.Table] = {}
        self._numbers: dict[str, ir.Table] = {}
        keys = {vector.name: f"vectors[{i}].value" for i, vector in enumerate(resolved.config.vectors)}
        for name, vector in self.vectors.items():
            side, column = resolved.frozen[name]
            table = sides[side]
            value = _lists_of_numbers(readable_columns(table)[column], keys[name], resolved)
            rows = table.filter(value.notnull()).drop_null(list(resolved.config.sides[side].on))
            refuse_bad_vectors(engine, rows, vector, resolved)
            self._rows[name] = rows
            number = ibis.row_number().over(ibis.window(order_by=rows[POSITION])) + 1
            numbers = rows.select(**{f"{_POSITION}{name}": rows[POSITION], f"{_ROW}{name}": number.cast("int32")})
            self._numbers[name] = engine.materialize(f"vector_rows_{name}", numbers)

    def with_rows(self, rows: ir.Table) -> ir.Table:
        """Return derived rows of the log with a column for each frozen table: the row of its vector, 0 for none."""
        out = rows
        for name in self.vectors:
            numbers = self._numbers[name]
            side_row = out[f"{SIDE_ROW}{self.resolved.frozen[name].side}"]
            out = out.left_join(numbers, side_row == numbers[f"{_POSITION}{name}"])
        columns = {name: out[f"{_ROW}{name}"].fill_null(0).cast("int32") for name in self.vectors}
        return out.select(*rows.columns, **columns) if columns else rows

    def stored_rows(self, name: str) -> ir.Table:
        """Return the rows of a frozen table: `POSITION` in the side table, keys, the day if it is dated, the vector."""
        rows, (side, column) = self._rows[name], self.resolved.frozen[name]
        values, config = readable_columns(rows), self.resolved.config.sides[side]
        keys = {f"{_KEY}{key}": values[key] for key in config.on}
        columns = {each: key.cast("int64") if isinstance(key, ir.IntegerValue) else key for each, key in keys.items()}
        if config.day is not None:
            columns[DAY] = side_day(self.resolved, side, rows).cast("int32")
        vector = _as_float32(_lists_of_numbers(values[column], f"vectors.{name}", self.resolved))
        return rows.select(POSITION, **columns, **{VECTOR: vector})
