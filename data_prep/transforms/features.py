"""Columns of the features before encoding: raw values of sparse features, dense values, and rules that rows must obey.

A bag is a sparse feature with a list of values per row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from data_prep.expressions.source import kind_fix
from data_prep.transforms.expression_scope import BROKEN, ColumnBuilder, as_float32, beyond_float32
from data_prep.transforms.resolve import Resolved
from ple_rec.config.prep import SparseSpec


def add_sparse(builder: ColumnBuilder, i: int, feature: SparseSpec) -> None:
    """Add the column `raw__<feature>`, whose values are encoded later, and the rules for it.

    For a weighted bag, add the column `weights__<feature>`, too.
    """
    key, column = f"sparse[{i}].value", f"raw__{feature.name}"
    if feature.bucketised:
        value = builder.number(key)
        builder.columns[column] = value
        builder.add_rule(key, "a number or nothing is needed, no NaN", column, value.isnan().fill_null(False))
        return
    if feature.bag:
        _add_bag(builder, i)
        return
    value = builder.build(key)
    builder.columns[column] = value.cast(_id_type(builder.resolved, key, value, value.type()))


@dataclass(frozen=True)
class Bag:
    """Columns of a bag feature.

    Args:
        columns: Columns `raw__<feature>` and, for a weighted bag, `weights__<feature>`, truncated to `max_length`.
        weights: Weights before truncation; None if the bag is not weighted.
        rules: Conditions under which a row breaks a rule for the weights, by the text of the rule.
    """

    columns: Mapping[str, ir.Value]
    weights: ir.ArrayValue | None
    rules: Mapping[str, ir.BooleanValue]


def build_bag(i: int, values: Mapping[str, ir.Value], resolved: Resolved) -> Bag:
    """Return the columns of the bag `sparse[i]`.

    Args:
        i: Index of the feature.
        values: Values that expressions may read, by word: those of the log, or those of one side table.
        resolved: Configuration with its expressions.

    Raises:
        UserError: The value is no list of ids, or the weights are no list of numbers.
        DataError: The same, for an expression that is just the name of a column; the error names its file.
    """
    feature, key = resolved.config.sparse[i], f"sparse[{i}].value"
    value = resolved.build(key, values)
    if not isinstance(value, ir.ArrayValue):
        text = resolved.parsed[key].text
        fix = "use a column of lists"
        if isinstance(value, ir.StringValue):
            fix = f"write split({text}, ',')"
        elif isinstance(value, ir.IntegerValue | ir.BooleanValue):
            fix = "remove bag = true, max_length and keep"
        raise resolved.wrong_type(key, value, "a bag is a list", fix=fix)
    item = _id_type(resolved, key, value, value.type().value_type)
    columns: dict[str, ir.Value] = {f"raw__{feature.name}": _cut(feature, value).cast(dt.Array(item))}
    if feature.weights is None:
        return Bag(columns, None, {})
    key = f"sparse[{i}].weights"
    weights = resolved.build(key, values)
    if not isinstance(weights, ir.ArrayValue) or not isinstance(weights.type().value_type, dt.Numeric):
        rule = "the weights of a bag are a list of numbers"
        fix = "write such a list into the log, or remove `weights`"
        raise resolved.wrong_type(key, weights, rule, fix=fix)
    columns[f"weights__{feature.name}"] = _cut(feature, weights).cast("array<float64>").map(as_float32)
    differs = weights.length().fill_null(0) != value.length().fill_null(0)
    bad = weights.cast("array<float64>").filter(lambda x: x.isnull() | beyond_float32(x))
    rules = {
        f"as many weights as {feature.name!r} has items": differs,
        "weights are finite": (bad.length() > 0).fill_null(False),
    }
    return Bag(columns, weights, rules)


def _add_bag(builder: ColumnBuilder, i: int) -> None:
    """Add a bag and its rules. A bag of a side table was checked per side row; its `BROKEN` column has the result."""
    bag = build_bag(i, builder.values, builder.resolved)
    builder.columns |= bag.columns
    if bag.weights is None:
        return
    value_column, checked = f"__weights{i}", f"{BROKEN}{i}"
    builder.columns[value_column] = bag.weights
    for number, (rule, broken) in enumerate(bag.rules.items(), 1):
        builder.add_rule(
            f"sparse[{i}].weights",
            rule,
            value_column,
            builder.rows[checked] == number if checked in builder.rows.columns else broken,
        )


def _cut(feature: SparseSpec, value: ir.ArrayValue) -> ir.ArrayValue:
    """Return lists truncated to the first or last `max_length` items, if the feature has this limit."""
    if feature.max_length is None:
        return value
    length = value.length()
    if feature.keep == "first":
        return value[: feature.max_length]
    return ibis.ifelse(length > feature.max_length, value[length - feature.max_length :], value)


def _id_type(resolved: Resolved, key: str, value: ir.Value, kind: dt.DataType) -> dt.DataType:
    """Return the type to which ids of type `kind` are cast, int64 or text; raise an error if they cannot be ids."""
    if isinstance(kind, dt.Integer | dt.Boolean):
        return dt.int64
    if isinstance(kind, dt.String):
        return dt.string
    fix = None
    if isinstance(kind, dt.Floating):
        cast_fix = kind_fix("float", "id", resolved.parsed[key].text)
        fix = f"{cast_fix}; give a number edges or quantiles, or make it a dense feature"
    if isinstance(value, ir.ArrayValue):
        numbers = isinstance(value.type().value_type, dt.Floating)
        fix = "write the items as integers or text into the log" if numbers else "set bag = true"
    raise resolved.wrong_type(key, value, "an id is an integer or text", "id", fix)


def add_dense(builder: ColumnBuilder, key: str, name: str) -> None:
    """Add a dense feature in float32, and the rule that its value is missing or a finite float32."""
    raw, value = builder.values.get(builder.resolved.parsed[key].text), builder.number(key)
    builder.columns[name] = as_float32(value)
    builder.columns[f"__{name}"] = value
    bad = beyond_float32(value)
    if isinstance(raw, ir.FloatingValue) and raw.type() == dt.float32:
        bad = (raw - raw).isnan()  # Cheaper, since x - x is NaN only for NaN and infinity.
    builder.add_rule(key, "a dense value is missing or a finite float32", f"__{name}", bad)
