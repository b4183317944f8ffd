"""Guess the rates over earlier days that `ple-rec init` proposes: of each label, by the user and by other ids."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.init.column import Column, Names
from data_prep.init.roles import ID_WORDS, ITEM_WORDS, MAX_CATEGORIES, Label, Roles
from ple_rec.config.prep_rates import table_name

# Rates are proposed by at most this many keys and of at most this many labels, since each becomes two features.
_MAX_KEYS, _MAX_LABELS = 4, 6
_MAX_SUM = 2**62  # Rates whose sums may come near the limit of int64 are not proposed.
# Fractions are added in a unit of which the power of ten nearest to the standard deviation has this many.
_UNITS_PER_SCALE = 1_000


@dataclass(frozen=True)
class Rate:
    """Rate of a label over the rows of earlier days with the same id.

    Args:
        name: Name of the rate.
        key: Expression of the id.
        of: Expression that is counted.
        unit: Value of the key `unit`; None if `of` is a truth value or an integer.
        why: Reason for the guess.
    """

    name: str
    key: str
    of: str
    unit: float | None
    why: str


def guess_rates(roles: Roles, rows: int) -> list[Rate]:
    """Return the proposed rates, by key and label.

    Args:
        roles: Guessed roles of the columns of a log.
        rows: Number of rows of the whole log.
    """
    names = Names()
    for name in [*(feature.name for feature in roles.features), *(label.column.feature for label in roles.labels)]:
        names.add(name, 0)
    rates = []
    for key in _keys(roles):
        for label in roles.labels[:_MAX_LABELS]:
            of, unit = _counted_value(label)
            if _largest(label.column) / (unit or 1) * rows > _MAX_SUM:
                continue
            kind = "rate" if label.kind == "binary" else "mean"
            name = names.add(f"{key.feature}_{label.column.feature}_{kind}", 0)
            names.add(f"{name}_count", 0)
            why = f"{kind} of {label.column.feature} on earlier days in rows with the same {key.feature}"
            rates.append(Rate(name, key.id_expression, of, unit, why))
    return rates


def _keys(roles: Roles) -> Iterator[Column]:
    """Yield the columns by which rates are proposed: the user, then ids of items, then other ids."""
    single = {feature.name for feature in roles.features if feature.values is not None and "bag" not in feature.keys}
    ids = [
        column
        for column in roles.columns
        if column.feature in single
        and column is not roles.user
        and column.distinct > MAX_CATEGORIES
        and column.words & (ID_WORDS | ITEM_WORDS)
    ]
    ids.sort(key=lambda column: not column.words & ITEM_WORDS)
    by_table: dict[str, Column] = {}
    for column in [*([] if roles.user is None else [roles.user]), *ids]:
        # Two expressions that differ only in punctuation or case would share a counted table, which prep refuses.
        by_table.setdefault(table_name([column.id_expression]).lower(), column)
    yield from list(by_table.values())[:_MAX_KEYS]


def _counted_value(label: Label) -> tuple[str, float | None]:
    """Return the expression that a rate of a label counts, and the unit in which it is added, if it has fractions."""
    column = label.column
    if column.kind == "bool" or pa.types.is_integer(column.type):
        return column.expression, None
    if column.is_binary:
        return column.id_expression, None
    deviation = pc.stddev(column.values).as_py() or 1.0
    unit = 10.0 ** round(math.log10(deviation)) / _UNITS_PER_SCALE if math.isfinite(deviation) else 1.0
    if column.has_non_finite:
        return f"case when {column.finite_condition} then {column.expression} end", unit
    return column.expression, unit


def _largest(column: Column) -> float:
    """Return the largest absolute value of a label in the sample."""
    return 1.0 if column.kind == "bool" else float(pc.max(pc.abs(column.values.cast(pa.float64()))).as_py() or 0)
