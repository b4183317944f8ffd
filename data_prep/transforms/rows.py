"""The rows of a log, and raw columns -> the columns of a dataset before ids, and what is wrong with a row.

Passes of a preparation, a dry run and a prediction read the same `LogRows` and `derive` the same columns of them.

    expression_scope.py  names that expressions read, columns and rules so far
    features.py          sparse and dense features
    labels.py            labels, spaces, thresholds
    splits.py            splits and sampling
    side_tables.py       side tables joined to the log

Column names inside the pipeline: `POSITION`, `PART`, `SPLIT`, `DAY`, `REASON`; `raw__<feature>` for what a vocabulary
or edges turn into ids; all others as they will stand in the parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.output.parts import PART
from data_prep.sources.files import POSITION
from data_prep.transforms import side_tables
from data_prep.transforms.arithmetic import hashed_number, quotient
from data_prep.transforms.columns import DAY, DAY_COLUMN, GROUP_COLUMN, REASON, WEIGHT_COLUMN
from data_prep.transforms.expression_scope import (
    SIDE_ROW,
    ColumnBuilder,
    Rule,
    beyond_float32,
    is_wide,
    taken,
    too_wide,
    worded,
)
from data_prep.transforms.features import add_dense, add_sparse
from data_prep.transforms.labels import add_tasks
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.splits import add_sampling, add_split

_EARLY = "__early"
_GROUP_DIGITS = 15


@dataclass(frozen=True)
class Derived:
    """The rows of a log, a lazy table, and the rules behind `REASON`: rule i is broken where it is i + 1."""

    table: ir.Table
    rules: tuple[Rule, ...]

    def for_parts(self) -> list[str]:
        """Return the columns that vocabularies and parts are made of: all but those that a message shows."""
        shown = {rule.shown for rule in self.rules if rule.shown.startswith("__")}
        return [name for name in self.table.columns if name not in shown]

    def first_broken(self, engine: Engine, reason: int) -> tuple[Rule, int, Any]:
        """Return a rule that is broken, with the position of the first row that breaks it and the value there."""
        rule, bad = self.rules[reason - 1], self.table.filter(self.table[REASON] == reason)
        first = bad.order_by(POSITION).limit(1).select(position=POSITION, shown=rule.shown)
        (row,) = engine.fetch(first).to_pylist()
        return rule, row["position"], row["shown"]


@dataclass(frozen=True)
class LogRows:
    """The rows of a log with the columns of their side rows: lazy tables, computed by who reads them.

    Args:
        engine: Engine that computes them.
        resolved: Configuration with the files of the log and of the side tables.
        sides: Rows of the side tables by name, one for a key at most; see `with_sides`.
        log: Rows that are read in place of the log's files, such as a sample of them.
        linked: Rows of the log with what tells their side rows; see `linked_once`.
    """

    engine: Engine
    resolved: Resolved
    sides: Mapping[str, ir.Table] = field(default_factory=dict)
    log: ir.Table | None = None
    linked: ir.Table | None = None

    def with_sides(self, *, keep: bool = False) -> LogRows:
        """Return the rows with side tables, whose keys are looked at.

        Args:
            keep: Flag that side tables are computed once, for rows that are joined a few at a time.

        Raises:
            DataError: A key stands in several rows, of which the configuration chooses none, or a row has no day.
        """
        found = {}
        for name, columns in self.resolved.side_columns.items():
            raw = self.resolved.tables[name]
            rows = side_tables.one_row_per_key(self.engine, raw, self.engine.scan(raw, columns), name, self.resolved)
            found[name] = self.engine.keep(name, rows) if keep else rows
        return replace(self, sides=found)

    def linked_once(self) -> LogRows:
        """Return the rows with their side rows found, once for all who read them."""
        if not self.sides:
            return self
        return replace(
            self, linked=self.engine.keep("linked", side_tables.linked(self.scan(), self.sides, self.resolved))
        )

    def scan(self, first: int = 0, last: int | None = None) -> ir.Table:
        """Return the rows that `log.where` takes of a range of positions, without side tables."""
        if self.log is not None:
            return between(self.log, first, last)
        table, columns = self.resolved.tables["log"], self.resolved.log_columns
        return taken(worded(self.engine.scan(table, columns, first, last)), self.resolved)

    def joined(self, first: int = 0, last: int | None = None) -> ir.Table:
        """Return the rows of a range of positions with the columns of side tables, as far as these are there."""
        if not self.sides:
            return self.scan(first, last)
        if self.linked is None:
            return side_tables.joined(self.scan(first, last), self.sides, self.resolved)
        return side_tables.looked_up(between(self.linked, first, last), self.sides, self.resolved)


def between(rows: ir.Table, first: int, last: int | None) -> ir.Table:
    """Return the rows whose position lies in a range; of a range without an end, all."""
    return rows if last is None else rows.filter((rows[POSITION] >= first) & (rows[POSITION] < last))


def derive(rows: ir.Table, resolved: Resolved, day_1: int | None = None, *, split: bool = True) -> Derived:
    """Return every column that a configuration asks for, of joined rows.

    Args:
        rows: Columns of the log and `side.column` ones, with `POSITION`.
        resolved: Configuration whose thresholds are known; labels with an unknown one are left out.
        day_1: Days from 1970-01-01 to day 1, where the configuration counts days.
        split: Flag that rows are dealt out to splits; a model's inputs are not.

    Raises:
        UserError: An expression reads what is not there, or gives a type that its key does not take.
    """
    d, config = ColumnBuilder(rows, resolved, day_1), resolved.config
    d.columns[POSITION] = d.rows[POSITION]
    d.columns |= {name: d.rows[name] for name in d.rows.columns if name.startswith(SIDE_ROW)}
    d.columns[PART] = quotient(d.rows[POSITION], config.output.part_rows).cast("int32")
    _wide(d)
    if config.time is not None:
        _time(d)
    else:
        d.columns[DAY] = ibis.null("int64")
    _checks(d)
    for i, feature in enumerate(config.sparse):
        add_sparse(d, i, feature)
    for i, number in enumerate(config.dense):
        add_dense(d, f"dense[{i}].value", number.name)
    add_tasks(d)
    if config.weight is not None:
        _weight(d)
    if config.group is not None:
        _group(d)
    for name in config.carry:
        d.columns[name] = d.build(f"carry.{name}")
    if split:
        add_split(d)
        add_sampling(d)
    return _judged(d)


def _judged(d: ColumnBuilder) -> Derived:
    """The columns with `REASON`."""
    d.columns[_EARLY] = _first_of([condition for _, condition in d.broken], 1)
    table = d.rows.select(**d.columns)
    late = _first_of([condition(table) for _, condition in d.checks_on_derived_columns], len(d.broken) + 1)
    table = table.mutate(**{REASON: ibis.ifelse(table[_EARLY] > 0, table[_EARLY], late)})
    return Derived(table, tuple(rule for rule, _ in (*d.broken, *d.checks_on_derived_columns)))


def _wide(d: ColumnBuilder) -> None:
    """Numbers beyond int64 are bad rows, wherever they are read; side tables hold none, `keyed` has seen to it."""
    for i, name in enumerate(d.rows.columns):
        if name.partition(".")[0] not in d.config.sides and is_wide(value := d.rows[name]):
            d.columns[f"__wide{i}"] = value
            d.rule(f"column {name!r}", "integers are int64, at most 2^63 - 1", f"__wide{i}", too_wide(value))


def _time(d: ColumnBuilder) -> None:
    config = d.config.time
    assert config is not None
    day = d.names["time.day"]
    d.columns |= {DAY: day, "__time": d.build("time.value"), DAY_COLUMN: day.cast("int32")}
    rule = f"as {config.unit} it must lie between {config.earliest} and {config.latest}"
    d.rule("time.value", rule, "__time", day.isnull())


def _checks(d: ColumnBuilder) -> None:
    for i, name in enumerate(d.config.checks):
        value = d.boolean(f"checks.{name}")
        read = [column for column in d.resolved.parsed[f"checks.{name}"].columns if column in d.names]
        shown = f"__check{i}"
        d.columns[shown] = d.names[read[0]] if read else value
        rule = f"it must hold: {d.config.checks[name]}"
        d.rule(f"checks.{name}: {read[0]}" if read else f"checks.{name}", rule, shown, ~value.fill_null(True))


def _weight(d: ColumnBuilder) -> None:
    value = d.number("weight")
    d.columns |= {WEIGHT_COLUMN: value, "__weight": value}
    good = (value >= 0) & ~beyond_float32(value)
    d.rule("weight", "a sample weight is finite and at least 0", "__weight", ~good.fill_null(False))


def _group(d: ColumnBuilder) -> None:
    value = d.build("group")
    if isinstance(value, ir.StringValue):
        value = hashed_number(value, _GROUP_DIGITS)
    if not isinstance(value, ir.IntegerValue):
        raise d.resolved.wrong_type("group", value, "a group is an integer or text", "id")
    d.columns[GROUP_COLUMN] = value.cast("int64")


def _first_of(conditions: Sequence[ir.BooleanValue], number: int) -> ir.IntegerValue:
    """The number of the first condition that holds, counted from `number`; 0 where none does."""
    if not conditions:
        return ibis.literal(0, "int16")
    branches = [(condition, i) for i, condition in enumerate(conditions, number)]
    return ibis.cases(*branches, else_=0).cast("int16")
