"""Labels, their sample spaces, and the thresholds that a label may be cut at."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import ibis
import ibis.expr.types as ir

from data_prep.expressions import kinds as exact
from data_prep.expressions.kinds import floating
from data_prep.transforms.columns import label_column, space_columns
from data_prep.transforms.expression_scope import ColumnBuilder, Rule, as_float32, beyond_float32
from data_prep.transforms.resolve import THRESHOLD
from ple_rec.config.prep import TaskSpec, ThresholdSpec

_Rule = Callable[[ir.FloatingValue], ir.BooleanValue]


def threshold_columns(i: int) -> tuple[str, str]:
    """Return the names of two columns: the values of task i whose quantile is taken, and those that cut the parts."""
    return f"__threshold{i}_value", f"__threshold{i}_by"


def add_tasks(d: ColumnBuilder) -> None:
    """Add the label and the space of each task, or the columns from which its threshold is still to be taken."""
    spaces = space_columns(d.config)
    for i, task in enumerate(d.config.tasks):
        key = f"tasks[{i}].label"
        if task.space is not None:
            d.columns[spaces[task.name]] = d.boolean(f"tasks[{i}].space").fill_null(False)
        names = d.names
        if task.threshold is not None:
            if task.threshold.values is None:
                _add_threshold_columns(d, i, task.threshold)
                continue
            names = names | {THRESHOLD: _threshold(d, i, task.threshold)}
        value = d.resolved.build(key, names)
        if not isinstance(value, ir.BooleanValue | ir.NumericValue):
            rule = "a label is true or false, or a number"
            raise d.resolved.wrong_type(key, value, rule, "condition")
        number = value.cast("float64")
        column = label_column(task)
        d.columns |= {column: as_float32(number), f"__{column}": number}
        rule, bad = _label_rule(task, value)
        where = f" where {task.space}" if task.space is not None else ""
        late = partial(_broken_label, column=f"__{column}", space=spaces.get(task.name), bad=bad)
        d.checks_on_derived_columns.append((Rule(key, rule + where, f"__{column}"), late))


def _threshold(d: ColumnBuilder, i: int, spec: ThresholdSpec) -> ir.FloatingValue:
    """Return the threshold of each row for task i."""
    assert spec.values is not None
    first = floating(spec.values[0])
    if spec.by is None:
        return first
    by = _threshold_by(d, i)
    steps = zip(spec.edges or (), spec.values[1:], strict=True)
    # The first case that holds counts, so the highest edge comes first.
    cases = [(by >= floating(edge), floating(value)) for edge, value in reversed(list(steps))]
    missing = first if spec.missing is None else floating(spec.missing)  # format 4 had no such part
    return ibis.cases((by.isnull(), missing), *cases, else_=first)


def _threshold_by(d: ColumnBuilder, i: int) -> ir.FloatingValue:
    """Return the value that says in which part a row lies. A row whose value is NaN lies in none, and is bad."""
    key, shown = f"tasks[{i}].threshold.by", f"__by{i}"
    value = d.number(key)
    d.columns[shown] = value
    d.rule(key, "a number or nothing is needed, no NaN", shown, value.isnan().fill_null(False))
    return value


def _add_threshold_columns(d: ColumnBuilder, i: int, spec: ThresholdSpec) -> None:
    value, by = threshold_columns(i)
    d.columns[value] = d.number(f"tasks[{i}].threshold.value")
    if spec.by is not None:
        d.columns[by] = _threshold_by(d, i)


def _label_rule(task: TaskSpec, value: ir.Value) -> tuple[str, _Rule]:
    """Return the rule that a label keeps, in words, and the function that tells where its float64 breaks it."""
    if task.kind == "binary":
        return "a binary label is 0 or 1", _not_binary if isinstance(value, ir.FloatingValue) else _not_0_or_1
    words = [f"at least {task.minimum}"] * (task.minimum is not None)
    words += [f"at most {task.maximum}"] * (task.maximum is not None)

    def bad(x: ir.FloatingValue) -> ir.BooleanValue:
        broken = exact.is_null(x) | beyond_float32(x)
        if task.minimum is not None:
            broken |= x < floating(task.minimum)
        if task.maximum is not None:
            broken |= x > floating(task.maximum)
        return broken

    return f"the label is finite{' and ' if words else ''}{' and '.join(words)}", bad


def _not_binary(x: ir.FloatingValue) -> ir.BooleanValue:
    return ~(~x.isnan() & ((x == 0) | (x == 1))).fill_null(False)


def _not_0_or_1(x: ir.FloatingValue) -> ir.BooleanValue:
    """Return `_not_binary` of a column that has no NaN, without looking for it."""
    return ~((x == 0) | (x == 1)).fill_null(False)


def _broken_label(table: ir.Table, column: str, space: str | None, bad: _Rule) -> ir.BooleanValue:
    return bad(table[column]) if space is None else table[space] & bad(table[column])
