"""Rows of a log, and the columns of a dataset that are derived from them before encoding, with the rules for rows.

The passes of a preparation, a dry run and a prediction read the same `LogRows` and `derive` the same columns.

    expression_scope.py  names that expressions read, builder of columns and rules
    features.py          sparse and dense features
    labels.py            labels, spaces, thresholds
    splits.py            splits and sampling
    side_tables.py       side tables joined to the log

Column names inside the pipeline: `POSITION`, `PART`, `SPLIT`, `DAY`, `REASON`; `raw__<feature>` for values that a
vocabulary or edges encode; all others as in the parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import PART, Engine
from data_prep.sources.files import POSITION
from data_prep.transforms import side_tables
from data_prep.transforms.arithmetic import hashed_number, quotient
from data_prep.transforms.columns import DAY, DAY_COLUMN, GROUP_COLUMN, REASON, WEIGHT_COLUMN
from data_prep.transforms.expression_scope import (
    SIDE_ROW,
    ColumnBuilder,
    Rule,
    beyond_float32,
    filtered,
    is_wide,
    renamed_to_words,
    too_wide,
)
from data_prep.transforms.features import add_dense, add_sparse
from data_prep.transforms.labels import add_tasks
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.splits import add_sampling, add_split

_FIRST_BROKEN = "__early"
_GROUP_DIGITS = 15


@dataclass(frozen=True)
class Derived:
    """Rows of a log with every column of the dataset but the ids.

    Args:
        table: Rows, not computed yet.
        rules: Rules for the rows; a row that breaks `rules[i]` has the `REASON` i + 1.
    """

    table: ir.Table
    rules: tuple[Rule, ...]

    def for_parts(self) -> list[str]:
        """Return the columns that vocabularies and parts are made of: all but those that only messages show."""
        for_messages = {rule.value_column for rule in self.rules if rule.value_column.startswith("__")}
        return [name for name in self.table.columns if name not in for_messages]

    def first_broken(self, engine: Engine, reason: int) -> tuple[Rule, int, Any]:
        """Return the rule of a `REASON`, and the position and the value of the first row that breaks it."""
        rule, bad = self.rules[reason - 1], self.table.filter(self.table[REASON] == reason)
        first = bad.order_by(POSITION).limit(1).select(position=POSITION, value=rule.value_column)
        (row,) = engine.fetch(first).to_pylist()
        return rule, row["position"], row["value"]


@dataclass(frozen=True)
class LogRows:
    """Rows of a log with the columns of their side rows, in tables that are computed when they are read.

    Args:
        engine: Engine that computes them.
        resolved: Configuration with the files of the log and of the side tables.
        sides: Side tables by name, each with at most one row per key; see `with_sides`.
        log: Rows that are read instead of the log's files, such as a sample of them.
        linked: Rows of the log joined to their side rows; see `linked_once`.
    """

    engine: Engine
    resolved: Resolved
    sides: Mapping[str, ir.Table] = field(default_factory=dict)
    log: ir.Table | None = None
    linked: ir.Table | None = None

    def with_sides(self, *, keep: bool = False) -> LogRows:
        """Return the rows with side tables, whose keys are checked.

        Args:
            keep: True to compute the side tables once, for rows that are joined a few at a time.

        Raises:
            DataError: A key stands in several rows, of which the configuration chooses none, or a row has no day.
        """
        sides = {}
        for name, columns in self.resolved.side_columns.items():
            raw = self.resolved.tables[name]
            rows = side_tables.one_row_per_key(self.engine, raw, self.engine.scan(raw, columns), name, self.resolved)
            sides[name] = self.engine.keep(name, rows) if keep else rows
        return replace(self, sides=sides)

    def linked_once(self) -> LogRows:
        """Return the rows joined to their side rows; the join is computed once for all later passes."""
        if not self.sides:
            return self
        return replace(
            self, linked=self.engine.keep("linked", side_tables.linked(self.scan(), self.sides, self.resolved))
        )

    def scan(self, first: int = 0, last: int | None = None) -> ir.Table:
        """Return the rows of a range of positions that fulfil `log.where`, without side tables."""
        if self.log is not None:
            return between(self.log, first, last)
        table, columns = self.resolved.tables["log"], self.resolved.log_columns
        return filtered(renamed_to_words(self.engine.scan(table, columns, first, last)), self.resolved)

    def joined(self, first: int = 0, last: int | None = None) -> ir.Table:
        """Return the rows of a range of positions, with the columns of side tables after `with_sides`."""
        if not self.sides:
            return self.scan(first, last)
        if self.linked is None:
            return side_tables.joined(self.scan(first, last), self.sides, self.resolved)
        return side_tables.with_side_bags(between(self.linked, first, last), self.sides, self.resolved)


def between(rows: ir.Table, first: int, last: int | None) -> ir.Table:
    """Return the rows whose positions lie in [first, last); all rows if `last` is None."""
    return rows if last is None else rows.filter((rows[POSITION] >= first) & (rows[POSITION] < last))


def derive(rows: ir.Table, resolved: Resolved, day_1: int | None = None, *, split: bool = True) -> Derived:
    """Derive every column of a dataset but the ids.

    Args:
        rows: Rows with the columns of the log, the `side.column` ones, and `POSITION`.
        resolved: Configuration with its expressions; a label whose threshold is unknown is left out.
        day_1: Days from 1970-01-01 to day 1; None if the configuration does not count days.
        split: False for the inputs of a model, which belong to no split.

    Raises:
        UserError: An expression reads an unknown name, or gives a type that its key does not take.
    """
    builder, config = ColumnBuilder(rows, resolved, day_1), resolved.config
    builder.columns[POSITION] = builder.rows[POSITION]
    builder.columns |= {name: builder.rows[name] for name in builder.rows.columns if name.startswith(SIDE_ROW)}
    builder.columns[PART] = quotient(builder.rows[POSITION], config.output.part_rows).cast("int32")
    _add_wide_rules(builder)
    if config.time is not None:
        _add_time(builder)
    else:
        builder.columns[DAY] = ibis.null("int64")
    _add_checks(builder)
    for i, feature in enumerate(config.sparse):
        add_sparse(builder, i, feature)
    for i, number in enumerate(config.dense):
        add_dense(builder, f"dense[{i}].value", number.name)
    add_tasks(builder)
    if config.weight is not None:
        _add_weight(builder)
    if config.group is not None:
        _add_group(builder)
    for name in config.carry:
        builder.columns[name] = builder.build(f"carry.{name}")
    if split:
        add_split(builder)
        add_sampling(builder)
    return _with_reasons(builder)


def _with_reasons(builder: ColumnBuilder) -> Derived:
    """Return the derived columns with `REASON`, the number of the first rule that a row breaks, or 0."""
    builder.columns[_FIRST_BROKEN] = _first_of([condition for _, condition in builder.broken], 1)
    table = builder.rows.select(**builder.columns)
    checks = [check(table) for _, check in builder.checks_on_derived_columns]
    later = _first_of(checks, len(builder.broken) + 1)
    table = table.mutate(**{REASON: ibis.ifelse(table[_FIRST_BROKEN] > 0, table[_FIRST_BROKEN], later)})
    return Derived(table, tuple(rule for rule, _ in (*builder.broken, *builder.checks_on_derived_columns)))


def _add_wide_rules(builder: ColumnBuilder) -> None:
    """Add the rules that columns of the log hold no number beyond int64; side tables were checked when keyed."""
    for i, name in enumerate(builder.rows.columns):
        if name.partition(".")[0] not in builder.config.sides and is_wide(value := builder.rows[name]):
            builder.columns[f"__wide{i}"] = value
            builder.rule(f"column {name!r}", "integers are int64, at most 2^63 - 1", f"__wide{i}", too_wide(value))


def _add_time(builder: ColumnBuilder) -> None:
    config = builder.config.time
    assert config is not None
    day = builder.names["time.day"]
    builder.columns |= {DAY: day, "__time": builder.build("time.value"), DAY_COLUMN: day.cast("int32")}
    rule = f"as {config.unit} it must lie between {config.earliest} and {config.latest}"
    builder.rule("time.value", rule, "__time", day.isnull())


def _add_checks(builder: ColumnBuilder) -> None:
    for i, name in enumerate(builder.config.checks):
        value = builder.boolean(f"checks.{name}")
        read = [word for word in builder.resolved.parsed[f"checks.{name}"].columns if word in builder.names]
        column = f"__check{i}"
        builder.columns[column] = builder.names[read[0]] if read else value
        rule = f"it must hold: {builder.config.checks[name]}"
        builder.rule(f"checks.{name}: {read[0]}" if read else f"checks.{name}", rule, column, ~value.fill_null(True))


def _add_weight(builder: ColumnBuilder) -> None:
    value = builder.number("weight")
    builder.columns |= {WEIGHT_COLUMN: value, "__weight": value}
    good = (value >= 0) & ~beyond_float32(value)
    builder.rule("weight", "a sample weight is finite and at least 0", "__weight", ~good.fill_null(False))


def _add_group(builder: ColumnBuilder) -> None:
    value = builder.build("group")
    if isinstance(value, ir.StringValue):
        value = hashed_number(value, _GROUP_DIGITS)
    if not isinstance(value, ir.IntegerValue):
        raise builder.resolved.wrong_type("group", value, "a group is an integer or text", "id")
    builder.columns[GROUP_COLUMN] = value.cast("int64")


def _first_of(conditions: Sequence[ir.BooleanValue], number: int) -> ir.IntegerValue:
    """Return the number of the first condition that holds, counted from `number`; 0 where none holds."""
    if not conditions:
        return ibis.literal(0, "int16")
    branches = [(condition, i) for i, condition in enumerate(conditions, number)]
    return ibis.cases(*branches, else_=0).cast("int16")
