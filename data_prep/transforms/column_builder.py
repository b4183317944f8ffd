"""Rows on their way to the columns of a dataset: what is derived so far, and the rules that are broken where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ibis.expr.types as ir

from data_prep.expressions.kinds import floating
from data_prep.transforms.expression_scope import condition_of, names_of, timed
from data_prep.transforms.resolve import Resolved

SIDE_ROW = "__row_"  # position of the row of a side table that a row meets
BROKEN = "__broken"  # of a bag of a side table: the rule that it breaks, counted from 1, or 0
_LARGEST_FLOAT32 = 3.4028234663852886e38


@dataclass(frozen=True)
class Rule:
    """Rule that a good row keeps.

    Args:
        key: Key of the configuration.
        rule: The rule in words.
        shown: Column of the derived rows that holds the value, for messages.
        fix: Fix that a message names; None for the general one.
    """

    key: str
    rule: str
    shown: str
    fix: str | None = None

    @property
    def reason(self) -> str:
        """Why a row is left out."""
        return f"{self.key}: {self.rule}"


class ColumnBuilder:
    """The columns of a dataset under way.

    Args:
        rows: The log's columns and `side.column` ones, with `POSITION`.
        resolved: The configuration.
        day_1: Days from 1970-01-01 to day 1, where the configuration counts days.

    Attributes:
        names: What expressions read.
        columns: Derived so far, expressions over `rows`.
        broken: Rules, and where they are.
        late: Rules of derived columns, which are computed once.
    """

    def __init__(self, rows: ir.Table, resolved: Resolved, day_1: int | None) -> None:
        self.rows, self.resolved, self.config, self.day_1 = timed(rows, resolved), resolved, resolved.config, day_1
        self.names = names_of(self.rows, resolved)
        self.columns: dict[str, ir.Value] = {}
        self.broken: list[tuple[Rule, ir.BooleanValue]] = []
        self.late: list[tuple[Rule, Callable[[ir.Table], ir.BooleanValue]]] = []

    def build(self, key: str) -> ir.Value:
        """The expression at a key of the configuration."""
        return self.resolved.build(key, self.names)

    def boolean(self, key: str) -> ir.BooleanValue:
        """The condition there."""
        return condition_of(key, self.build(key), self.resolved)

    def number(self, key: str) -> ir.FloatingValue:
        """Return the number there, in float64."""
        value = self.build(key)
        if isinstance(value, ir.BooleanValue | ir.IntegerValue | ir.FloatingValue):
            return value.cast("float64")
        raise self.resolved.wrong_type(key, value, "a number is needed", "number")

    def hash_input(self, key: str) -> ir.StringValue | ir.IntegerValue:
        """Return the value of the expression at a key; only integers and texts can be hashed alike on every engine."""
        value = self.build(key)
        if not isinstance(value, ir.StringValue | ir.IntegerValue):
            raise self.resolved.wrong_type(key, value, "what is hashed is an integer or text", "id")
        return value

    def rule(self, key: str, rule: str, shown: str, broken: ir.BooleanValue, fix: str | None = None) -> None:
        """Add a rule with the condition under which a row breaks it; the other arguments are those of `Rule`."""
        self.broken.append((Rule(key, rule, shown, fix), broken))


def as_float32(value: ir.FloatingValue) -> ir.FloatingValue:
    """As it is written; something in a bad row, which may be computed although it is left out."""
    return value.try_cast("float32")


def beyond_float32(value: ir.FloatingValue) -> ir.BooleanValue:
    """Where a number is NaN, or too large for float32."""
    return (value.isnan() | (value.abs() > floating(_LARGEST_FLOAT32))).fill_null(False)
