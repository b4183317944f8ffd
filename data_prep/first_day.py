"""Day 1 of a split by day, from which the configuration counts its days."""

from __future__ import annotations

import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.expressions.times import days_since_1970
from data_prep.survey import no_day_error
from data_prep.transforms import expression_scope
from data_prep.transforms.arithmetic import day_number
from data_prep.transforms.resolve import Resolved
from ple_rec.config.prep import DaySplit, HeldOutSplit
from ple_rec.config.problems import ConfigError


def find_day_1(engine: Engine, rows: ir.Table, resolved: Resolved, *, is_complete: bool = True) -> int | None:
    """Return day 1 of a split by day, as a number of days since 1970-01-01.

    Day 1 is the date in the configuration, or else the first day of the log.

    Args:
        engine: Engine that computes the first day of the log.
        rows: Rows of the log, joined to the side tables.
        resolved: Configuration with its parsed expressions.
        is_complete: True if `rows` are all rows of the log; False for a sample, whose first day may be later. If day 1
            is the first day of a sample, it is not compared with the dates of the split.

    Returns:
        Day 1; None if the split is neither a `DaySplit` nor a `HeldOutSplit`, or names all its days by dates and the
        configuration gives no day 1.

    Raises:
        UserError: With this day 1, the ranges of train, valid and test overlap or are not in order.
        DataError: Day 1 would be the first day of the log, but no row has a valid time.
    """
    split = resolved.config.split
    if not isinstance(split, DaySplit | HeldOutSplit):
        return None
    if split.day_1 is None and all(isinstance(day, str) for day in split.named_days()):
        return None
    day_1 = days_since_1970(split.day_1) if split.day_1 is not None else _first_day(engine, rows, resolved)
    is_exact = is_complete or split.day_1 is not None
    if (
        is_exact
        and isinstance(split, DaySplit)
        and (problems := split.order_problems(lambda day: day_number(day, day_1)))
    ):
        raise ConfigError.from_problems(resolved.place, [f"split: {problem}" for problem in problems])
    return day_1


def _first_day(engine: Engine, rows: ir.Table, resolved: Resolved) -> int:
    """Return the first day of the log, as a number of days since 1970-01-01."""
    local = expression_scope.local_time(expression_scope.readable_columns(rows), resolved)
    times = rows.select(time=local.count, in_range=local.in_range)
    first = engine.fetch(times.filter("in_range").aggregate(first=times["time"].min()))["first"][0].as_py()
    if first is None:
        raise no_day_error(engine, rows, resolved)
    return local.day_at(first)
