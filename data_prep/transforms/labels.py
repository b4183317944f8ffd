"""Columns of the tasks: labels, sample spaces, and the columns from which thresholds of labels are computed.

The sample space of a task is the rows that it is learned from. A threshold is a number that the expression of a label
may compare a value with. It is a quantile of a value over the training rows of the sample space, and may differ between
bins of another value (`by`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import ibis
import ibis.expr.types as ir

from data_prep.expressions import kinds as exact
from data_prep.expressions.kinds import floating
from data_prep.transforms.columns import label_column, space_columns
from data_prep.transforms.expression_scope import ColumnBuilder, Rule, as_float32, beyond_float32
from data_prep.transforms.words import THRESHOLD
from ple_rec.config.prep import TaskSpec, ThresholdSpec

_Rule = Callable[[ir.FloatingValue], ir.BooleanValue]


def threshold_columns(i: int) -> tuple[str, str]:
    """Return the names of two columns of task i: the value whose quantile is taken, and the value that is binned."""
    return f"__threshold{i}_value", f"__threshold{i}_by"


def add_tasks(builder: ColumnBuilder) -> None:
    """Add the columns of the sample space and the label of each task.

    If the threshold of a task is not known yet, the columns from which it is computed are added instead of the label. A
    later pass over the rows adds the label.
    """
    spaces = space_columns(builder.config)
    for i, task in enumerate(builder.config.tasks):
        if task.space is not None:
            builder.columns[spaces[task.name]] = builder.boolean(f"tasks[{i}].space").fill_null(False)
        if task.threshold is not None and task.threshold.values is None:
            _add_threshold_columns(builder, i, task.threshold)
        else:
            _add_label(builder, i, task, spaces.get(task.name))


def _add_label(builder: ColumnBuilder, i: int, task: TaskSpec, space_column: str | None) -> None:
    key, values, column = f"tasks[{i}].label", builder.values, label_column(task)
    if task.threshold is not None:
        values = values | {THRESHOLD: _threshold(builder, i, task.threshold)}
    value = builder.resolved.build(key, values)
    if not isinstance(value, ir.BooleanValue | ir.NumericValue):
        rule = "a label is a boolean or a number"
        raise builder.resolved.wrong_type(key, value, rule, "condition")
    number = value.cast("float64")
    builder.columns |= {column: as_float32(number), f"__{column}": number}
    rule, is_bad = _label_rule(task, value)
    where = f" where {task.space}" if task.space is not None else ""
    check = partial(_broken_label, column=f"__{column}", space=space_column, is_bad=is_bad)
    builder.checks_on_computed_columns.append((Rule(key, rule + where, f"__{column}"), check))


def _threshold(builder: ColumnBuilder, i: int, spec: ThresholdSpec) -> ir.FloatingValue:
    """Return the threshold of each row for task i."""
    assert spec.values is not None
    first = floating(spec.values[0])
    if spec.by is None:
        return first
    by = _threshold_by(builder, i)
    steps = zip(spec.edges or (), spec.values[1:], strict=True)
    # The first case that is true determines the result, so the highest edge comes first.
    cases = [(by >= floating(edge), floating(value)) for edge, value in reversed(list(steps))]
    # Datasets of format 4 have no threshold of their own for rows without a value of `by`.
    missing = first if spec.missing is None else floating(spec.missing)
    return ibis.cases((by.isnull(), missing), *cases, else_=first)


def _threshold_by(builder: ColumnBuilder, i: int) -> ir.FloatingValue:
    """Return the value whose bin chooses the threshold of a row, and add the rule that it is not NaN."""
    key, column = f"tasks[{i}].threshold.by", f"__by{i}"
    value = builder.number(key)
    builder.columns[column] = value
    builder.add_rule(key, "a number or nothing is needed, no NaN", column, value.isnan().fill_null(False))
    return value


def _add_threshold_columns(builder: ColumnBuilder, i: int, spec: ThresholdSpec) -> None:
    value, by = threshold_columns(i)
    builder.columns[value] = builder.number(f"tasks[{i}].threshold.value")
    if spec.by is not None:
        builder.columns[by] = _threshold_by(builder, i)


def _label_rule(task: TaskSpec, value: ir.Value) -> tuple[str, _Rule]:
    """Return the rule for a label as text, and a function that returns True where a label in float64 breaks it."""
    if task.kind == "binary":
        return "a binary label is 0 or 1", _not_binary if isinstance(value, ir.FloatingValue) else _not_0_or_1
    bounds = [f"at least {task.minimum}"] * (task.minimum is not None)
    bounds += [f"at most {task.maximum}"] * (task.maximum is not None)

    def is_bad(x: ir.FloatingValue) -> ir.BooleanValue:
        broken = exact.is_null(x) | beyond_float32(x)
        if task.minimum is not None:
            broken |= x < floating(task.minimum)
        if task.maximum is not None:
            broken |= x > floating(task.maximum)
        return broken

    return f"the label is finite{' and ' if bounds else ''}{' and '.join(bounds)}", is_bad


def _not_binary(x: ir.FloatingValue) -> ir.BooleanValue:
    return ~(~x.isnan() & ((x == 0) | (x == 1))).fill_null(False)


def _not_0_or_1(x: ir.FloatingValue) -> ir.BooleanValue:
    """Return the same as `_not_binary`, at less cost, for a type that has no NaN."""
    return ~((x == 0) | (x == 1)).fill_null(False)


def _broken_label(table: ir.Table, column: str, space: str | None, is_bad: _Rule) -> ir.BooleanValue:
    """Return True where a row in the sample space, whose column is `space`, has a label that `is_bad` refuses."""
    return is_bad(table[column]) if space is None else table[space] & is_bad(table[column])
