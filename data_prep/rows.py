"""Raw columns -> the columns of a dataset before ids, and what is wrong with a row.

    words.py       what expressions read            deriving.py    columns and rules so far
    features.py    sparse and dense                 labels.py      labels, spaces, thresholds
    splits.py      splits and sampling

Column names inside the pipeline: `POSITION`, `PART`, `SPLIT`, `DAY`, `REASON`; `raw__<feature>` for what a vocabulary
or edges turn into ids; all others as they will stand in the parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from data_prep.columns import DAY, DAY_COLUMN, GROUP_COLUMN, REASON, WEIGHT_COLUMN
from data_prep.days import quotient
from data_prep.deriving import SIDE_ROW, Deriving, Rule, beyond_float32
from data_prep.features import add_dense, add_sparse
from data_prep.hashing import hashed_number
from data_prep.labels import add_tasks
from data_prep.parts import PART
from data_prep.resolve import Resolved
from data_prep.sources.files import POSITION
from data_prep.splits import add_sampling, add_split
from data_prep.words import is_wide, too_wide

_EARLY = "__early"
_GROUP_DIGITS = 15


@dataclass(frozen=True)
class Derived:
    """The rows of a log, a lazy table, and the rules behind `REASON`: rule i is broken where it is i + 1."""

    table: ir.Table
    rules: tuple[Rule, ...]


def derive(rows: ir.Table, resolved: Resolved, day_1: int | None) -> Derived:
    """Every column that a configuration asks for, of joined rows.

    Args:
        rows: The log's columns and `side.column` ones, with `POSITION`.
        resolved: The configuration, its thresholds known; labels with an unknown one are left out.
        day_1: Days from 1970-01-01 to day 1, where the configuration counts days.

    Raises:
        UserError: An expression reads what is not there, or gives a type that its key does not take.
    """
    d, config = Deriving(rows, resolved, day_1), resolved.config
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
    add_split(d)
    add_sampling(d)
    return _judged(d)


def derive_inputs(rows: ir.Table, resolved: Resolved) -> Derived:
    """Of the same rows, what a model reads, and what is carried along: no label, split, check or sampling.

    Args and errors are those of `derive`. Rules of features are rules here too.
    """
    d, config = Deriving(rows, resolved, None), resolved.config
    d.columns[POSITION] = d.rows[POSITION]
    _wide(d)
    if config.time is not None:
        _time(d)
    for i, feature in enumerate(config.sparse):
        add_sparse(d, i, feature)
    for i, number in enumerate(config.dense):
        add_dense(d, f"dense[{i}].value", number.name)
    for name in config.carry:
        d.columns[name] = d.build(f"carry.{name}")
    return _judged(d)


def _judged(d: Deriving) -> Derived:
    """The columns with `REASON`."""
    d.columns[_EARLY] = _first_of([condition for _, condition in d.broken], 1)
    table = d.rows.select(**d.columns)
    late = _first_of([condition(table) for _, condition in d.late], len(d.broken) + 1)
    table = table.mutate(**{REASON: ibis.ifelse(table[_EARLY] > 0, table[_EARLY], late)})
    return Derived(table, tuple(rule for rule, _ in (*d.broken, *d.late)))


def _wide(d: Deriving) -> None:
    """Numbers beyond int64 are bad rows, wherever they are read; side tables hold none, `keyed` has seen to it."""
    for i, name in enumerate(d.rows.columns):
        if name.partition(".")[0] not in d.config.sides and is_wide(value := d.rows[name]):
            d.columns[f"__wide{i}"] = value
            d.rule(f"column {name!r}", "integers are int64, at most 2^63 - 1", f"__wide{i}", too_wide(value))


def _time(d: Deriving) -> None:
    config = d.config.time
    assert config is not None
    day = d.names["time.day"]
    d.columns |= {DAY: day, "__time": d.build("time.value"), DAY_COLUMN: day.cast("int32")}
    rule = f"as {config.unit} it must lie between {config.earliest} and {config.latest}"
    d.rule("time.value", rule, "__time", day.isnull())


def _checks(d: Deriving) -> None:
    for i, name in enumerate(d.config.checks):
        value = d.boolean(f"checks.{name}")
        read = [column for column in d.resolved.parsed[f"checks.{name}"].columns if column in d.names]
        shown = f"__check{i}"
        d.columns[shown] = d.names[read[0]] if read else value
        rule = f"it must hold: {d.config.checks[name]}"
        d.rule(f"checks.{name}: {read[0]}" if read else f"checks.{name}", rule, shown, ~value.fill_null(True))


def _weight(d: Deriving) -> None:
    value = d.number("weight")
    d.columns |= {WEIGHT_COLUMN: value, "__weight": value}
    good = (value >= 0) & ~beyond_float32(value)
    d.rule("weight", "a sample weight is finite and at least 0", "__weight", ~good.fill_null(False))


def _group(d: Deriving) -> None:
    value = d.build("group")
    if isinstance(value, ir.StringValue):
        value = hashed_number(value, _GROUP_DIGITS)
    if not isinstance(value, ir.IntegerValue):
        raise d.refuse("group", value, "a group is an integer or text", "cast it, e.g. cast(x as bigint)", "id")
    d.columns[GROUP_COLUMN] = value.cast("int64")


def _first_of(conditions: Sequence[ir.BooleanValue], number: int) -> ir.IntegerValue:
    """The number of the first condition that holds, counted from `number`; 0 where none does."""
    if not conditions:
        return ibis.literal(0, "int16")
    branches = [(condition, i) for i, condition in enumerate(conditions, number)]
    return ibis.cases(*branches, else_=0).cast("int16")
