"""Rates over earlier days: they are counted by key and day, and joined to the rows of the log.

Rates with the same key share a counted table (`ple_rec.config.prep_rates`). Three steps make its values:

    count_by_day    counts and sums by key and day, of all rows that count     -> stored in `rates/` of the dataset
    values_as_of    for each key and day, the sums over the window of the rate -> its values as of that day
    join_rates      the values are joined to the rows by key and day           -> columns `by_video_id.like_rate`

So rows are never joined with rows. Counts and sums are integers, and a rate is computed from them by the same
operations in the same order, so its bits do not depend on the engine, threads or the order of files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.expressions.kinds import divide, floating
from data_prep.expressions.times import days_since_1970
from data_prep.failures import EngineError
from data_prep.transforms import rate_append
from data_prep.transforms.arithmetic import date_text, day_number
from data_prep.transforms.columns import DAY, REASON
from data_prep.transforms.expression_scope import ColumnBuilder
from data_prep.transforms.rate_values import build_keys, key_columns, value_column
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.rows import LogRows, derive
from ple_rec.config.prep import DaySplit, HashSplit, HeldOutSplit, PrepConfig
from ple_rec.config.prep_rates import DAY as COUNTED_DAY
from ple_rec.config.prep_rates import CountedTable, RateSpec
from ple_rec.errors import DataError

logger = logging.getLogger(__name__)

# Prefixes of columns that exist only while rates are joined: `__match<i>_<table>` is a key of a counted table.
_MATCH, _MATCH_DAY = "__match", "__match_day_"
# Texts of DuckDB and of Spark about a result beyond int64.
_BEYOND_INT64 = ("out of range for the destination type INT64", "[CAST_OVERFLOW]", "[ARITHMETIC_OVERFLOW]")


@dataclass(frozen=True)
class RateCounts:
    """Counted tables of a dataset.

    Args:
        tables: Counts and sums by key and day, by name of the counted table. The columns are those of the files in
            `rates/`.
        first_day: First day whose rows have exact rates, in days from 1970-01-01; None if no row counts. It is the
            first day of the log or, in a dataset of an appended day, which keeps only some counts, the appended day.
        last_day: Last day whose rows are counted; None if no row counts and the split names no day.
    """

    tables: Mapping[str, ir.Table]
    first_day: int | None
    last_day: int | None

    @classmethod
    def read(cls, engine: Engine, config: PrepConfig, files: Mapping[str, Path]) -> RateCounts:
        """Return the counted tables of a dataset.

        Args:
            engine: Engine that reads the files.
            config: Configuration of the dataset, with its `[found]` values.
            files: Files of the counted tables on this machine, by name of the table.
        """
        tables = {name: engine.read([file]) for name, file in files.items()}
        days = (config.found.rates_first_day, config.found.rates_last_day)
        return cls(
            {name: rows.mutate(**{COUNTED_DAY: rows[COUNTED_DAY].cast("int64")}) for name, rows in tables.items()},
            *(None if day is None else days_since_1970(day) for day in days),
        )

    def dates(self) -> dict[str, str | None]:
        """Return the first and the last day as values of `[found]`."""
        days = {"rates_first_day": self.first_day, "rates_last_day": self.last_day}
        return {name: None if day is None else date_text(day) for name, day in days.items()}


def count_rates(
    rows: LogRows,
    day_1: int | None,
    *,
    is_complete: bool = True,
    earlier: RateCounts | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> RateCounts:
    """Count the rows of a log by the keys of all rates and by day.

    Rows of all splits and of no split count, until the last day that the split names. Rows that `log.where` leaves out
    do not, nor do bad rows that are dropped.

    Args:
        rows: Rows of the log, joined to the side tables.
        day_1: Days from 1970-01-01 to day 1 of the split; None if the split needs none.
        is_complete: False if `rows` are a sample of the log, so that there is no warning of missing days and keys.
        earlier: Counts of the parent, if a day is appended. Only rows of later days are added to them.
        say: Function that tells the user how many rows are of days that the parent has counted.

    Raises:
        UserError: A key or a value has a type that cannot be counted.
        DataError: The same, for an expression that is just the name of a column; a key has another type than in the
            parent; or a sum exceeds int64.
    """
    engine, resolved = rows.engine, rows.resolved
    split = resolved.config.split
    last_day = None
    if isinstance(split, DaySplit | HeldOutSplit):
        last_day = max(day_number(day, day_1) for day in split.named_days())
    derived = engine.create_view(derive(rows.joined(), resolved, day_1, counts=True).table)
    if is_complete and earlier is not None and earlier.last_day is not None:
        rate_append.tell_of_counted_rows(engine, engine.select_columns(derived, [DAY]), earlier.last_day, say)
    tables = {}
    for name, table in resolved.config.counted_tables.items():
        values = [value_column(i) for i, rate in table.rates.items() if rate.of is not None]
        columns = engine.select_columns(derived, [*key_columns(table), *values, DAY, REASON])
        counting = columns.drop_null([*key_columns(table), DAY])
        if resolved.config.on_bad_row == "drop":
            counting = counting.filter(counting[REASON] == 0)
        if last_day is not None:
            counting = counting.filter(counting[DAY] <= last_day)
        if earlier is None:
            counts = count_by_day(counting, table)
        else:
            assert last_day is not None  # An appended day is the only day that its split names.
            counts = _count_appended(resolved, table, earlier, counting, last_day)
        with _refuse_overflow(resolved, table):
            tables[name] = engine.materialize(f"counts_{name}", counts)
    days = {name: _day_range(engine, table) for name, table in tables.items()}
    firsts, lasts = ([day for day in ends if day is not None] for ends in zip(*days.values(), strict=True))
    if earlier is not None and earlier.last_day is not None and last_day is not None:
        return RateCounts(tables, last_day, max(last_day, earlier.last_day))
    last_day = max(lasts, default=None) if last_day is None else last_day
    counts_of_days = RateCounts(tables, min(firsts, default=None), last_day)
    _warn_of_split(resolved)
    if is_complete:
        _warn_of_empty(resolved, [name for name, (first, _) in days.items() if first is None])
        _warn_of_windows(resolved, counts_of_days)
    return counts_of_days


def count_by_day(rows: ir.Table, table: CountedTable) -> ir.Table:
    """Return the counts and sums of the rates of a counted table by key and day.

    Args:
        rows: Rows with the columns of `rate_values`, without null keys.
        table: Counted table.
    """
    keys = dict(zip(table.key_columns, key_columns(table), strict=True))
    sums: dict[str, ir.Value] = {}
    for i, rate in table.rates.items():
        if rate.of is None:
            sums[rate.count_column] = rows.count()
        else:
            value = rows[value_column(i)]
            sums |= {rate.count_column: value.count(), rate.sum_column: value.sum().fill_null(0)}
    named = {name: rows[column] for name, column in keys.items()} | {COUNTED_DAY: rows[DAY]}
    return rows.group_by(**named).aggregate(**{name: value.cast("int64") for name, value in sums.items()})


def _count_appended(resolved: Resolved, table: CountedTable, earlier: RateCounts, rows: ir.Table, day: int) -> ir.Table:
    """Return the counts of a parent that an appended day still needs, and those of rows of later days.

    Args:
        resolved: Configuration of the appended day, for messages.
        table: Counted table.
        earlier: Counts of the parent.
        rows: Rows that count, of all days up to the appended one.
        day: Appended day, in days from 1970-01-01.

    Raises:
        DataError: A key has another type than in the parent.
    """
    assert earlier.last_day is not None  # The parent is split by day, so it names its last day.
    later = count_by_day(rows.filter(rows[DAY] > earlier.last_day), table)
    rate_append.check_key_types(resolved, table, earlier.tables[table.name], later)
    if day <= earlier.last_day:
        # A row of this day may have a key that the parent has not counted on this day.
        rows_of_day = rate_append.zero_counts(rows.filter(rows[DAY] == day), table)
        later = ibis.union(later, rows_of_day.select(later.columns), distinct=False)
    return rate_append.add_counts(table, earlier.tables[table.name], later, day)


def values_as_of(
    engine: Engine, table: CountedTable, counts: ir.Table, resolved: Resolved, first_day: int | None = None
) -> ir.Table:
    """Return the values of the rates of a counted table, as of each day of each key in `counts`.

    Args:
        engine: Engine that computes and stores the sums over windows.
        table: Counted table.
        counts: Counts and sums by key and day. A row with counts of 0 only gives its key and day values.
        resolved: Configuration, for messages.
        first_day: First day whose values are needed, in days from 1970-01-01; None for those of every day.

    Returns:
        Columns of the key, the day, and the columns that expressions read.

    Raises:
        DataError: A sum exceeds int64.
    """
    keys = list(table.key_columns)
    stored = {column: rate for rate in table.rates.values() for column in rate.stored_columns}
    by_day = counts.group_by(COUNTED_DAY).aggregate(**{column: counts[column].sum() for column in stored})
    # The engines add int64 up to int128, and do not convert int128 to float64 like int64. `materialize` stores int64.
    with _refuse_overflow(resolved, table):
        windows = {
            column: counts[column].sum().over(_window(rate, keys)).fill_null(0) for column, rate in stored.items()
        }
        sums = counts.select(*keys, COUNTED_DAY, **windows)
        needed = sums if first_day is None else sums.filter(sums[COUNTED_DAY] >= first_day)
        sums = engine.materialize(f"sums_{table.name}", needed)
        totals = {total_column(column): by_day[column].sum().over(_window(rate, [])) for column, rate in stored.items()}
        means = engine.materialize(f"totals_{table.name}", by_day.select(__day=by_day[COUNTED_DAY], **totals))
    joined = sums.left_join(means, sums[COUNTED_DAY] == means["__day"])
    values = {column: value for rate in table.rates.values() for column, value in values_of_sums(joined, rate).items()}
    return joined.select(*keys, COUNTED_DAY, **values)


def _window(rate: RateSpec, keys: list[str]) -> ibis.expr.builders.WindowBuilder:
    """Return the window of days before a day, for rows of a table by key and day."""
    nearest = rate.delay_days + 1
    farthest = None if rate.window_days is None else rate.delay_days + rate.window_days
    return ibis.range_window(preceding=(farthest, nearest), group_by=keys, order_by=COUNTED_DAY)


def total_column(column: str) -> str:
    """Return the name of the column with the sum of a stored column over all keys."""
    return f"__all_{column}"


def values_of_sums(sums: ir.Table, rate: RateSpec) -> dict[str, ir.Value]:
    """Return the columns of a rate that expressions read.

    Args:
        sums: Sums over the window of the rate: those of each key in its stored columns, those of all keys in the
            columns of `total_column`.
        rate: Rate whose columns are returned.
    """
    count = sums[rate.count_column]
    if rate.of is None:
        return {rate.count_column: count}
    mean = divide(sums[total_column(rate.sum_column)], sums[total_column(rate.count_column)])
    prior = floating(rate.prior)
    value = divide(sums[rate.sum_column].cast("float64") + prior * mean, count.cast("float64") + prior)
    return {rate.name: value if rate.unit is None else value * floating(rate.unit), rate.count_column: count}


def with_rates(rows: LogRows, counts: RateCounts) -> LogRows:
    """Return the rows of a log with the columns of all rates, which are computed here, once for all passes."""
    engine, resolved = rows.engine, rows.resolved
    tables = {
        name: values_as_of(engine, table, counts.tables[name], resolved, counts.first_day)
        for name, table in resolved.config.counted_tables.items()
    }
    linked = rows.scan() if rows.linked is None else rows.linked
    joined = join_rates(rows.joined(), tables, resolved, linked.columns)
    return replace(rows, linked=engine.materialize("with_rates", joined))


def join_rates(
    rows: ir.Table, tables: Mapping[str, ir.Table], resolved: Resolved, columns: tuple[str, ...]
) -> ir.Table:
    """Return some columns of rows, and the columns of rates that expressions read, as `by_video_id.like_rate`.

    A row whose key is null, or for which a table has no row, has null in the columns of the table.

    Args:
        rows: Rows of the log, joined to the side tables.
        tables: Tables of `values_as_of` by name.
        resolved: Configuration with its expressions.
        columns: Columns of `rows` to return.
    """
    builder = ColumnBuilder(rows, resolved, None)
    counted = resolved.config.counted_tables
    keys = {name: key for table in counted.values() for name, key in build_keys(builder, table).items()}
    out = builder.rows.select(*columns, **keys, **{DAY: builder.values["time.day"]})
    names = list(columns)
    for name, table in counted.items():
        values = tables[name]
        matches = {f"{_MATCH}{i}_{name}": values[key] for i, key in enumerate(table.key_columns)}
        rates = {f"{name}.{column}": values[column] for column in table.columns}
        values = values.select(**matches, **rates, **{f"{_MATCH_DAY}{name}": values[COUNTED_DAY]})
        conditions = [out[key] == values[match] for key, match in zip(key_columns(table), matches, strict=True)]
        out = out.left_join(values, [*conditions, out[DAY] == values[f"{_MATCH_DAY}{name}"]])
        names += rates
    return out.select(*names)


def _day_range(engine: Engine, counts: ir.Table) -> tuple[int | None, int | None]:
    """Return the first and the last day of a counted table; None for both if it has no row."""
    days = counts.aggregate(first=counts[COUNTED_DAY].min(), last=counts[COUNTED_DAY].max())
    (row,) = engine.fetch(days).to_pylist()
    return row["first"], row["last"]


@contextmanager
def _refuse_overflow(resolved: Resolved, table: CountedTable) -> Iterator[None]:
    """Raise the error of a sum beyond int64 if a query of the block ends with one."""
    try:
        yield
    except EngineError as error:
        if not any(text in str(error) for text in _BEYOND_INT64):
            raise
        names = ", ".join(rate.name for rate in table.rates.values() if rate.of is not None)
        raise DataError(
            f"{resolved.place}: rates",
            f"a value of {names}, or a sum of them, is beyond int64",
            "values are added as integers, at most 2^63 - 1",
            "choose a larger unit, or leave wrong values out by case when ... end",
        ) from error


def _warn_of_split(resolved: Resolved) -> None:
    if isinstance(resolved.config.split, HashSplit):
        logger.warning(
            '%s: split.by = "hash" with rates: rows of valid and test count in the rates of later training rows, so '
            'metrics may be too good. Fix: split.by = "day"',
            resolved.place,
        )


def _warn_of_empty(resolved: Resolved, names: list[str]) -> None:
    """Warn of counted tables without a row."""
    for name in names:
        table = resolved.config.counted_tables[name]
        logger.warning(
            "%s: rates by [%s]: no row of the log has this key, so %s are missing in all rows. Fix: correct the key, "
            "or remove the rates",
            resolved.place,
            ", ".join(table.key),
            ", ".join(table.columns),
        )


def _warn_of_windows(resolved: Resolved, counts: RateCounts) -> None:
    """Warn of windows that begin before the log even for rows of its last day."""
    if counts.first_day is None or counts.last_day is None:
        return
    for i, rate in enumerate(resolved.config.rates):
        if rate.window_days is not None and rate.delay_days + rate.window_days > counts.last_day - counts.first_day:
            logger.warning(
                '%s: rates[%d] (%s): window = "%s" after delay = "%s" begins before the log, whose days are %s to %s, '
                'even for rows of the last one. Fix: a shorter window, window = "all", or a longer log',
                resolved.place,
                i,
                rate.name,
                rate.window,
                rate.delay,
                date_text(counts.first_day),
                date_text(counts.last_day),
            )
