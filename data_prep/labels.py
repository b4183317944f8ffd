"""Labels, their sample spaces, and the thresholds that a label may be cut at."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import ibis
import ibis.expr.types as ir

from data_prep.columns import label_column, space_columns
from data_prep.deriving import Deriving, Rule, as_float32, beyond_float32
from data_prep.expressions import numbers as exact
from data_prep.expressions.kinds import floating
from data_prep.resolve import THRESHOLD
from ple_rec.config.prep import TaskSpec, ThresholdSpec

_Rule = Callable[[ir.FloatingValue], ir.BooleanValue]


def threshold_columns(i: int) -> tuple[str, str]:
    """Columns of what the threshold of task i is a quantile of, and of what cuts the rows into parts."""
    return f"__threshold{i}_value", f"__threshold{i}_by"


def add_tasks(d: Deriving) -> None:
    """Label and space of every task; of one whose threshold is not known yet, what that is taken of."""
    spaces = space_columns(d.config)
    for i, task in enumerate(d.config.tasks):
        key = f"tasks[{i}].label"
        if task.space is not None:
            d.columns[spaces[task.name]] = d.boolean(f"tasks[{i}].space").fill_null(False)
        names = d.names
        if task.threshold is not None:
            if task.threshold.values is None:
                _awaits_threshold(d, i, task.threshold)
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
        d.late.append((Rule(key, rule + where, f"__{column}"), late))


def _threshold(d: Deriving, i: int, spec: ThresholdSpec) -> ir.FloatingValue:
    assert spec.values is not None
    found = floating(spec.values[0])
    if spec.by is not None:
        by = _threshold_by(d, i)
        steps = list(zip(spec.edges or (), spec.values[1:], strict=True))
        if steps:  # from the highest edge down, so that the first that is reached counts
            branches = [(by >= floating(edge), floating(value)) for edge, value in reversed(steps)]
            found = ibis.cases(*branches, else_=found)
    return found


def _threshold_by(d: Deriving, i: int) -> ir.FloatingValue:
    """What says which threshold a row has; a row of NaN, which lies in no part, is bad."""
    key, shown = f"tasks[{i}].threshold.by", f"__by{i}"
    value = d.number(key)
    d.columns[shown] = value
    d.rule(key, "a number or nothing is needed, no NaN", shown, value.isnan().fill_null(False))
    return value


def _awaits_threshold(d: Deriving, i: int, spec: ThresholdSpec) -> None:
    value, by = threshold_columns(i)
    d.columns[value] = d.number(f"tasks[{i}].threshold.value")
    if spec.by is not None:
        d.columns[by] = _threshold_by(d, i)


def _label_rule(task: TaskSpec, value: ir.Value) -> tuple[str, _Rule]:
    """What the label `value` must be, and where, as a float64, it is not."""
    if task.kind == "binary":
        return "a binary label is 0 or 1", _not_binary if isinstance(value, ir.FloatingValue) else _not_0_or_1
    words = [f"at least {task.minimum}"] * (task.minimum is not None)
    words += [f"at most {task.maximum}"] * (task.maximum is not None)

    def bad(x: ir.FloatingValue) -> ir.BooleanValue:
        found = exact.is_null(x) | beyond_float32(x)
        if task.minimum is not None:
            found |= x < floating(task.minimum)
        if task.maximum is not None:
            found |= x > floating(task.maximum)
        return found

    return f"the label is finite{' and ' if words else ''}{' and '.join(words)}", bad


def _not_binary(x: ir.FloatingValue) -> ir.BooleanValue:
    return ~(~x.isnan() & ((x == 0) | (x == 1))).fill_null(False)


def _not_0_or_1(x: ir.FloatingValue) -> ir.BooleanValue:
    """The same where there is no NaN, which takes one question less of every row."""
    return ~((x == 0) | (x == 1)).fill_null(False)


def _broken_label(table: ir.Table, column: str, space: str | None, bad: _Rule) -> ir.BooleanValue:
    return bad(table[column]) if space is None else table[space] & bad(table[column])
