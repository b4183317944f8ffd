"""Counts of rates that a dataset of an appended day takes over from its parent."""

from __future__ import annotations

from collections.abc import Callable

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.transforms.arithmetic import date_text
from data_prep.transforms.columns import DAY
from data_prep.transforms.rate_values import key_columns
from data_prep.transforms.resolve import Resolved
from ple_rec.config.prep_rates import DAY as COUNTED_DAY
from ple_rec.config.prep_rates import CountedTable
from ple_rec.errors import DataError


def add_counts(table: CountedTable, earlier: ir.Table, later: ir.Table, day: int) -> ir.Table:
    """Return the counts that a dataset of an appended day keeps: those of the days that its rates still need.

    If a rate has the window "all", the counts of earlier days are added up: each key gets one row with their sums, on
    the day before the first day that is kept.

    Args:
        table: Counted table.
        earlier: Counts and sums by key and day in the parent.
        later: Counts and sums of later days. A row with counts of 0 only gives its key and day values.
        day: Day that is appended, in days from 1970-01-01.
    """
    rates = table.rates.values()
    first_kept = day - max(rate.delay_days + (rate.window_days or 0) for rate in rates)
    return merge_counts(earlier, later, first_kept, sums_older_days=any(rate.window_days is None for rate in rates))


def merge_counts(earlier: ir.Table, later: ir.Table, first_day: int, *, sums_older_days: bool) -> ir.Table:
    """Return the sums of earlier and later counts by key and day, for the days from `first_day` on.

    Args:
        earlier: Counts by key and day: the columns of `later`.
        later: Columns of the key, `COUNTED_DAY`, and columns of counts, in this order.
        first_day: First day, in days from 1970-01-01.
        sums_older_days: True to add up the counts of all days before the first one: each key gets one row with their
            sums, on the day before the first one. False to leave these days out.
    """
    rows = ibis.union(earlier.select(later.columns), later, distinct=False)
    if sums_older_days:
        rows = rows.mutate(**{COUNTED_DAY: ibis.greatest(rows[COUNTED_DAY], ibis.literal(first_day - 1, "int64"))})
    else:
        rows = rows.filter(rows[COUNTED_DAY] >= first_day)
    counts = later.columns[later.columns.index(COUNTED_DAY) + 1 :]
    keys = [column for column in later.columns if column not in counts]
    return rows.group_by(keys).aggregate(**{name: rows[name].sum() for name in counts})


def zero_counts(rows: ir.Table, table: CountedTable) -> ir.Table:
    """Return a row with counts of 0 for each key and day of some rows, so that these get values, too."""
    names = dict(zip(table.key_columns, key_columns(table), strict=True)) | {COUNTED_DAY: DAY}
    stored = [column for rate in table.rates.values() for column in rate.stored_columns]
    pairs = rows.select(**{name: rows[column] for name, column in names.items()}).distinct()
    return pairs.mutate(**dict.fromkeys(stored, ibis.literal(0, "int64")))


def check_key_types(resolved: Resolved, table: CountedTable, earlier: ir.Table, later: ir.Table) -> None:
    """Check that the keys of a counted table have the types that they have in the parent.

    Raises:
        DataError: A key was an integer and is a text now, or the other way round.
    """
    for i, column in enumerate(table.key_columns):
        old, new = (rows[column].type().copy(nullable=True) for rows in (earlier, later))
        if old != new:
            raise DataError(
                f"{resolved.place}: rates[{next(iter(table.rates))}].key[{i}]",
                f"{table.key[i]} now of type {new}, but {old} in the parent",
                "an appended day keeps every column's type",
                "write the day's files with the types of the first days",
            )


def tell_of_counted_rows(
    engine: Engine, rows: ir.Table, last_day: int, say: Callable[[str], None], readers: str = "rates"
) -> None:
    """Tell how many rows of a log are of days that the parent has counted, so that they are not counted again.

    Args:
        engine: Engine that counts the rows.
        rows: Rows of the log with `DAY`.
        last_day: Last day that the parent has counted, in days from 1970-01-01.
        say: Function that shows a line to the user.
        readers: Name of what counts the rows, in plural.
    """
    old = rows.filter(rows[DAY] <= last_day)
    counts = old.aggregate(rows=old.count(), days=old[DAY].nunique(), first=old[DAY].min(), last=old[DAY].max())
    (result,) = engine.fetch(counts).to_pylist()
    if result["rows"]:
        first, last = date_text(result["first"]), date_text(result["last"])
        days = first if first == last else f"{result['days']} days, {first} to {last}"
        say(f"{readers} do not count {result['rows']:,} rows ({days}) again, since the parent has counted these days")
