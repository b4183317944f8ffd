"""Rows of a log joined with side tables (`LogRows`), and the columns of a dataset derived from them (`derive`).

A preparation, which reads the log in several passes, a dry run and a prediction use the same functions. The columns are
Ibis expressions, which the engine (DuckDB or Spark) computes when it reads them. Sparse features are not yet encoded.

    expression_scope.py  values that expressions read, builder of columns and rules
    features.py          sparse and dense features
    labels.py            labels, sample spaces, thresholds
    splits.py            splits and sampling
    rate_values.py       keys and values that rates are counted from
    history_values.py    keys, events and times that histories are made from
    side_tables.py       side tables (such as one of users) joined to the log
    vectors.py           vectors, in the rows of the log or in frozen tables

The position of a row is its number in the log. A part is a Parquet file of the dataset. Names of columns during the
preparation: `POSITION`, `PART`, `SPLIT`, `DAY`, `REASON`; `raw__<feature>` for values that are encoded by a vocabulary
or by edges; `__<name>` for further columns that the dataset does not have, such as values that only messages show; all
others as in the dataset's files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import PART, Engine
from data_prep.expressions.json_text import with_fields
from data_prep.sources.files import POSITION
from data_prep.transforms import side_tables
from data_prep.transforms.arithmetic import hashed_number, hashed_text, quotient
from data_prep.transforms.columns import (
    DAY,
    DAY_COLUMN,
    GROUP_COLUMN,
    NO_GROUP,
    REASON,
    SUBGROUP_COLUMN,
    WEIGHT_COLUMN,
)
from data_prep.transforms.expression_scope import (
    SIDE_ROW,
    ColumnBuilder,
    Rule,
    beyond_float32,
    exceeds_int64,
    filter_log,
    may_exceed_int64,
    renamed_to_words,
)
from data_prep.transforms.features import add_dense, add_sparse
from data_prep.transforms.history_values import add_event_values, add_history_offsets
from data_prep.transforms.labels import add_tasks
from data_prep.transforms.rate_values import add_rate_values
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.splits import add_sampling, add_split
from data_prep.transforms.vectors import add_vector
from data_prep.transforms.words import group_keys

_FIRST_BROKEN = "__early"  # Column: number of the first broken rule among `ColumnBuilder.rules`, or 0.
_GROUP_DIGITS = 15  # Hexadecimal digits of the hash of a group that is a text: as many as fit into int64.
_SUBGROUP_TEXT = "__subgroup_text"  # Column: text of all entries of a group, whose hash is the subgroup.


@dataclass(frozen=True)
class Derived:
    """Rows of a log with every column of the dataset, but with raw values instead of ids.

    Args:
        table: Rows, as an Ibis expression that is not computed yet.
        rules: Rules for the rows. `REASON` is i + 1 in a row whose first broken rule is `rules[i]`, and 0 in good rows.
    """

    table: ir.Table
    rules: tuple[Rule, ...]

    def part_columns(self) -> list[str]:
        """Return the columns from which vocabularies and Parquet files are made: all but those for messages."""
        for_messages = {rule.value_column for rule in self.rules if rule.value_column.startswith("__")}
        return [name for name in self.table.columns if name not in for_messages]

    def find_first_broken(self, engine: Engine, reason: int) -> tuple[Rule, int, Any]:
        """Return a rule, and the position and the value of the first row whose first broken rule it is.

        Args:
            engine: Engine that searches for the row.
            reason: Number of the rule, as in the column `REASON`, from 1.
        """
        rule, bad = self.rules[reason - 1], self.table.filter(self.table[REASON] == reason)
        first = bad.order_by(POSITION).limit(1).select(position=POSITION, value=rule.value_column)
        (row,) = engine.fetch(first).to_pylist()
        return rule, row["position"], row["value"]


@dataclass(frozen=True)
class LogRows:
    """Rows of a log with the columns of side tables, as Ibis expressions.

    Args:
        engine: Engine that computes the rows.
        resolved: Configuration with the files of the log and of the side tables.
        sides: Side tables by name, each with at most one row per key; see `with_sides`.
        log: Rows that are read instead of the log's files, such as a sample of those that fulfil `log.where`; None for
            the files.
        linked: Rows of the log joined with the side tables, but without bags; see `materialize_links`. They may have
            the columns of rates (`rates.with_rates`) and of histories (`histories.with_histories`), too. None if the
            tables are joined whenever rows are read.
    """

    engine: Engine
    resolved: Resolved
    sides: Mapping[str, ir.Table] = field(default_factory=dict)
    log: ir.Table | None = None
    linked: ir.Table | None = None

    def with_sides(self, *, materialize: bool = False) -> LogRows:
        """Return the rows with side tables, after a check of their keys.

        Args:
            materialize: True to compute the side tables once and store them, for logs that are read in many batches.

        Raises:
            DataError: Several rows of a side table have the same key and `keep` is not set, a row of a dated table has
                no day, or a number exceeds int64.
        """
        sides = {}
        for name, columns in self.resolved.side_columns.items():
            raw = self.resolved.tables[name]
            rows = side_tables.deduplicate_keys(self.engine, raw, self.engine.scan(raw, columns), name, self.resolved)
            sides[name] = self.engine.materialize(name, rows) if materialize else rows
        return replace(self, sides=sides)

    def materialize_links(self) -> LogRows:
        """Return the rows with `linked`, the join with side tables, which is computed here, once for all passes."""
        if not self.sides:
            return self
        return replace(
            self,
            linked=self.engine.materialize(
                "linked", side_tables.link_side_rows(self.scan(), self.sides, self.resolved)
            ),
        )

    def scan(self, first: int = 0, last: int | None = None) -> ir.Table:
        """Return the rows at positions first to last - 1 that fulfil `log.where`, without side tables.

        All rows are returned if `last` is None.
        """
        if self.log is not None:
            return rows_between(self.log, first, last)
        table, columns = self.resolved.tables["log"], self.resolved.log_columns
        return filter_log(renamed_to_words(self.engine.scan(table, columns, first, last)), self.resolved)

    def joined(self, first: int = 0, last: int | None = None) -> ir.Table:
        """Return the rows of `scan` with the columns of the side tables, if `with_sides` has been called.

        They also have the JSON fields that expressions read from columns; see `json_text.with_fields`.
        """
        if self.linked is not None:
            rows = side_tables.with_side_bags(rows_between(self.linked, first, last), self.sides, self.resolved)
        elif self.sides:
            rows = side_tables.join_sides(self.scan(first, last), self.sides, self.resolved)
        else:
            rows = self.scan(first, last)
        paths: dict[str, dict[str, None]] = {}
        for expression in self.resolved.parsed.values():
            for word, path in expression.json_fields:
                # `build` refuses `json` of a column of another type, with a fix.
                if word in rows.columns and rows[word].type().is_string():
                    paths.setdefault(word, {}).setdefault(path)
        if not paths:
            return rows
        # Without a view, Ibis may copy the expressions of `with_fields` into each of their uses.
        return self.engine.create_view(with_fields(rows, {word: list(each) for word, each in paths.items()}))


def rows_between(rows: ir.Table, first: int, last: int | None) -> ir.Table:
    """Return the rows at positions first to last - 1; all rows if `last` is None."""
    return rows if last is None else rows.filter((rows[POSITION] >= first) & (rows[POSITION] < last))


def derive(
    rows: ir.Table,
    resolved: Resolved,
    day_1: int | None = None,
    *,
    split: bool = True,
    counts: bool = False,
    histories: bool = False,
) -> Derived:
    """Derive every column of a dataset, with raw values instead of ids.

    Args:
        rows: Rows with the columns of the log, those of side tables as `side.column`, and `POSITION`. As long as they
            lack rates, features and carried columns that read rates are left out. As long as they lack the offsets of
            histories, so do the derived rows.
        resolved: Configuration with its expressions. A label whose threshold is not known yet is left out.
        day_1: Days from 1970-01-01 to day 1, from which a configuration counts days; None if it names dates only.
        split: False for rows to be predicted, which belong to no split.
        counts: True to add the keys and values that rates are counted from; see `rate_values.py`.
        histories: True to add the keys, events and times that histories are made from; see `history_values.py`.

    Raises:
        UserError: An expression reads an unknown name, or has a type that its key does not accept.
        DataError: The same, for an expression that is just the name of a column.
    """
    builder, config = ColumnBuilder(rows, resolved, day_1), resolved.config
    builder.columns[POSITION] = builder.rows[POSITION]
    builder.columns |= {name: builder.rows[name] for name in builder.rows.columns if name.startswith(SIDE_ROW)}
    builder.columns[PART] = quotient(builder.rows[POSITION], config.output.part_rows).cast("int32")
    _add_int64_rules(builder)
    if config.time is not None:
        _add_time(builder)
    else:
        builder.columns[DAY] = ibis.null("int64")
    _add_checks(builder)
    for i, feature in enumerate(config.sparse):
        if builder.has_words(f"sparse[{i}].value"):
            add_sparse(builder, i, feature)
    for i, number in enumerate(config.dense_features):
        if builder.has_words(f"dense[{i}].value"):
            add_dense(builder, f"dense[{i}].value", number.name)
    for i in range(len(config.vectors)):
        add_vector(builder, i)
    add_tasks(builder)
    if config.weight is not None:
        _add_weight(builder)
    if config.group is not None:
        _add_groups(builder)
    for name in filter(lambda name: builder.has_words(f"carry.{name}"), config.carry):
        builder.columns[name] = builder.build(f"carry.{name}")
    add_history_offsets(builder)
    if split:
        add_split(builder)
        add_sampling(builder)
    if counts:
        add_rate_values(builder)
    if histories:
        add_event_values(builder)
    return _with_reasons(builder)


def _with_reasons(builder: ColumnBuilder) -> Derived:
    """Return the derived columns with `REASON`, the number of the first rule that a row breaks, or 0."""
    builder.columns[_FIRST_BROKEN] = _first_of([condition for _, condition in builder.rules], 1)
    table = builder.rows.select(**builder.columns)
    if _SUBGROUP_TEXT in builder.columns:
        # The SQL of a hash names the hashed value some thirty times. A column is a short name; as an expression with
        # the hash of the group, the SQL would be of 100 kB.
        subgroup = hashed_number(table[_SUBGROUP_TEXT], _GROUP_DIGITS)
        table = table.mutate(**{SUBGROUP_COLUMN: subgroup}).drop(_SUBGROUP_TEXT)
    checks = [check(table) for _, check in builder.checks_on_computed_columns]
    later = _first_of(checks, len(builder.rules) + 1)
    table = table.mutate(**{REASON: ibis.ifelse(table[_FIRST_BROKEN] > 0, table[_FIRST_BROKEN], later)})
    return Derived(table, tuple(rule for rule, _ in (*builder.rules, *builder.checks_on_computed_columns)))


def _add_int64_rules(builder: ColumnBuilder) -> None:
    """Add the rules that columns of the log have no number beyond int64. `deduplicate_keys` checks side tables."""
    for i, name in enumerate(builder.rows.columns):
        if name.partition(".")[0] not in builder.config.sides and may_exceed_int64(value := builder.rows[name]):
            builder.columns[f"__wide{i}"] = value
            builder.add_rule(
                f"column {name!r}", "integers are int64, at most 2^63 - 1", f"__wide{i}", exceeds_int64(value)
            )


def _add_time(builder: ColumnBuilder) -> None:
    config = builder.config.time
    assert config is not None
    day = builder.values["time.day"]
    builder.columns |= {DAY: day, "__time": builder.build("time.value"), DAY_COLUMN: day.cast("int32")}
    rule = f"as {config.unit} it must lie between {config.earliest} and {config.latest}"
    builder.add_rule("time.value", rule, "__time", day.isnull())


def _add_checks(builder: ColumnBuilder) -> None:
    for i, name in enumerate(builder.config.checks):
        value = builder.boolean(f"checks.{name}")
        read = [word for word in builder.resolved.parsed[f"checks.{name}"].columns if word in builder.values]
        column = f"__check{i}"
        builder.columns[column] = builder.values[read[0]] if read else value
        rule = f"it must hold: {builder.config.checks[name]}"
        builder.add_rule(
            f"checks.{name}: {read[0]}" if read else f"checks.{name}", rule, column, ~value.fill_null(True)
        )


def _add_weight(builder: ColumnBuilder) -> None:
    value = builder.number("weight")
    builder.columns |= {WEIGHT_COLUMN: value, "__weight": value}
    good = (value >= 0) & ~beyond_float32(value)
    builder.add_rule("weight", "a sample weight is finite and at least 0", "__weight", ~good.fill_null(False))


def _add_groups(builder: ColumnBuilder) -> None:
    """Add the group and, if `group` is a list, the subgroup.

    A subgroup is a number that two rows share if they are equal in all entries. It is null where an entry is missing or
    the row has no group.
    """
    entries = [_group_number(builder, key) for key in group_keys(builder.config)]
    builder.columns[GROUP_COLUMN] = entries[0]
    if builder.config.has_subgroups:
        text = hashed_text(entries[0].nullif(NO_GROUP))
        for entry in entries[1:]:
            text = text + ibis.literal(":") + hashed_text(entry)
        builder.columns[_SUBGROUP_TEXT] = text


def _group_number(builder: ColumnBuilder, key: str) -> ir.IntegerValue:
    """Return the value of an entry of `group` as an int64; a text is hashed."""
    value = builder.build(key)
    if isinstance(value, ir.StringValue):
        value = hashed_number(value, _GROUP_DIGITS)
    if not isinstance(value, ir.IntegerValue):
        raise builder.resolved.wrong_type(key, value, "a group is an integer or text", "id")
    return value.cast("int64")


def _first_of(conditions: Sequence[ir.BooleanValue], number: int) -> ir.IntegerValue:
    """Return the number of the first condition that is true, where the first has `number`; 0 where all are false."""
    if not conditions:
        return ibis.literal(0, "int16")
    branches = [(condition, i) for i, condition in enumerate(conditions, number)]
    return ibis.cases(*branches, else_=0).cast("int16")
