"""Features before ids: raw values of sparse features, dense numbers, and what may be wrong with them."""

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


def add_sparse(d: ColumnBuilder, i: int, feature: SparseSpec) -> None:
    """`raw__<feature>`: what a vocabulary or edges turn into ids; the last or first items of a bag."""
    key, column = f"sparse[{i}].value", f"raw__{feature.name}"
    if feature.bucketised:
        value = d.number(key)
        d.columns[column] = value
        d.rule(key, "a number or nothing is needed, no NaN", column, value.isnan().fill_null(False))
        return
    if feature.bag:
        _add_bag(d, i)
        return
    value = d.build(key)
    d.columns[column] = value.cast(_id_type(d.resolved, key, value, value.type()))


@dataclass(frozen=True)
class Bag:
    """A bag feature of some rows.

    Args:
        columns: `raw__<feature>`, cut to `max_length`, and `weights__<feature>` where it is weighted.
        weights: As they are read.
        rules: Where the weights break a rule, by the rule.
    """

    columns: Mapping[str, ir.Value]
    weights: ir.ArrayValue | None
    rules: Mapping[str, ir.BooleanValue]


def bag_of(i: int, names: Mapping[str, ir.Value], resolved: Resolved) -> Bag:
    """The bag `sparse[i]` of rows whose words are `names`, be they of the log or of a side table.

    Raises:
        UserError: It is no list, or a list of what is no id, or its weights are no list of numbers; a DataError where
            that is a column as it is.
    """
    feature, key = resolved.config.sparse[i], f"sparse[{i}].value"
    value = resolved.build(key, names)
    if not isinstance(value, ir.ArrayValue):
        text = resolved.parsed[key].text
        fix = "name a column of lists"
        if isinstance(value, ir.StringValue):
            fix = f"write split({text}, ',')"
        elif isinstance(value, ir.IntegerValue | ir.BooleanValue):
            fix = "drop bag = true, max_length and keep"
        raise resolved.wrong_type(key, value, "a bag is a list", fix=fix)
    item = _id_type(resolved, key, value, value.type().value_type)
    columns: dict[str, ir.Value] = {f"raw__{feature.name}": _ended(feature, value).cast(dt.Array(item))}
    if feature.weights is None:
        return Bag(columns, None, {})
    key = f"sparse[{i}].weights"
    weights = resolved.build(key, names)
    if not isinstance(weights, ir.ArrayValue) or not isinstance(weights.type().value_type, dt.Numeric):
        rule = "the weights of a bag are a list of numbers"
        fix = "write such a list where the log is made, or drop `weights`"
        raise resolved.wrong_type(key, weights, rule, fix=fix)
    columns[f"weights__{feature.name}"] = _ended(feature, weights).cast("array<float64>").map(as_float32)
    differs = weights.length().fill_null(0) != value.length().fill_null(0)
    bad = weights.cast("array<float64>").filter(lambda x: x.isnull() | beyond_float32(x))
    rules = {
        f"as many weights as {feature.name!r} has items": differs,
        "weights are finite": (bad.length() > 0).fill_null(False),
    }
    return Bag(columns, weights, rules)


def _add_bag(d: ColumnBuilder, i: int) -> None:
    """A bag and its rules; those of a side table's bag are known of its rows, `BROKEN`, and not looked at again."""
    bag = bag_of(i, d.names, d.resolved)
    d.columns |= bag.columns
    if bag.weights is None:
        return
    shown, known = f"__weights{i}", f"{BROKEN}{i}"
    d.columns[shown] = bag.weights
    for number, (rule, broken) in enumerate(bag.rules.items(), 1):
        d.rule(f"sparse[{i}].weights", rule, shown, d.rows[known] == number if known in d.rows.columns else broken)


def _ended(feature: SparseSpec, value: ir.ArrayValue) -> ir.ArrayValue:
    if feature.max_length is None:
        return value
    length = value.length()
    if feature.keep == "first":
        return value[: feature.max_length]
    return ibis.ifelse(length > feature.max_length, value[length - feature.max_length :], value)


def _id_type(resolved: Resolved, key: str, value: ir.Value, kind: dt.DataType) -> dt.DataType:
    if isinstance(kind, dt.Integer | dt.Boolean):
        return dt.int64
    if isinstance(kind, dt.String):
        return dt.string
    fix = None
    if isinstance(kind, dt.Floating):
        cast = kind_fix("float", "id", resolved.parsed[key].text)
        fix = f"{cast}; give a number edges or quantiles, or make it a dense feature"
    if isinstance(value, ir.ArrayValue):
        numbers = isinstance(value.type().value_type, dt.Floating)
        fix = "write the items as integers or text where the log is made" if numbers else "set bag = true"
    raise resolved.wrong_type(key, value, "an id is an integer or text", "id", fix)


def add_dense(d: ColumnBuilder, key: str, name: str) -> None:
    """A number as it is, in float32."""
    raw, value = d.names.get(d.resolved.parsed[key].text), d.number(key)
    d.columns[name] = as_float32(value)
    d.columns[f"__{name}"] = value
    bad = beyond_float32(value)
    if isinstance(raw, ir.FloatingValue) and raw.type() == dt.float32:
        bad = (raw - raw).isnan()  # of what is not finite; cheaper to ask
    d.rule(key, "a dense value is missing or a finite float32", f"__{name}", bad)
