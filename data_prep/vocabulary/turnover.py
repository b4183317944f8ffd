"""Admission and expiry of values: which of them get a row of an embedding table on an appended day, and which lose it.

The training rows of the latest days are counted by value and day, as rates are by key and day (`rate_append.py`). The
counts are stored in `rates/values_of_<table>.parquet`, and an appended day goes on from those of its parent. For a
table with `admit = {count = 3, days = 7}` and `expire = {unseen_days = 30}`, the appended day D decides:

    a value without a row gets one     if the training rows of the days D - 6 to D have it 3 times
    a value with a row loses the row   if no training row of the days D - 29 to D has it

Without `admit`, the training rows of D alone decide, by `min_count`. The row of a value that has expired is free for
another value (`numbering.assign_rows`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.transforms.columns import DAY, LOG_ROW_COUNT
from data_prep.transforms.rate_append import merge_counts
from ple_rec.config.prep import TableSpec
from ple_rec.config.prep_rates import DAY as COUNTED_DAY
from ple_rec.config.schema import VOCAB_DAY


def count_by_day(values: ir.Table, weight: float = 1.0) -> ir.Table:
    """Return the columns `raw`, `COUNTED_DAY` and `count`: the number of training rows by value and day.

    Args:
        values: Columns `raw` and `DAY`. A column `LOG_ROW_COUNT`, if there is one, says how often each row counts.
        weight: Number of rows of the log for which each row stands; more than 1 for a sample.
    """
    total = values[LOG_ROW_COUNT].sum() if LOG_ROW_COUNT in values.columns else values.count()
    if weight != 1.0:
        total = (total * weight).floor()
    return values.group_by(raw=values["raw"], **{COUNTED_DAY: values[DAY]}).aggregate(count=total.cast("int64"))


def add_day(spec: TableSpec, earlier: ir.Table, counts: ir.Table, day: int) -> ir.Table:
    """Return the counts that the decisions of an appended day need.

    Args:
        spec: Configuration of the table.
        earlier: Counts of the parent.
        counts: Counts of the appended day.
        day: Appended day, in days from 1970-01-01.
    """
    earlier = earlier.mutate(**{COUNTED_DAY: earlier[COUNTED_DAY].cast("int64")})
    return merge_counts(earlier, counts, day - spec.counted_days + 1, sums_older_days=False)


def latest_days(spec: TableSpec, counts: ir.Table, day: int) -> ir.Table:
    """Return the counts of a first preparation that appended days may need; `day` is its last training day."""
    return counts.filter(counts[COUNTED_DAY] > day - spec.counted_days)


def total_counts(counts: ir.Table, minimum: int) -> ir.Table:
    """Return the columns `raw` and `count`, summed over all days, of the values that occur `minimum` times or more."""
    totals = counts.group_by("raw").aggregate(count=counts["count"].sum().cast("int64"))
    return totals.filter(totals["count"] >= minimum)


def admitted_values(spec: TableSpec, counts: ir.Table, day: int) -> ir.Table:
    """Return the columns `raw` and `count` of the values that get a row on an appended day, unless they have one.

    `count` is the number of training rows of the days that decide on the admission.
    """
    days, minimum = (1, spec.min_count) if spec.admit is None else (spec.admit.days, spec.admit.count)
    return total_counts(counts.filter(counts[COUNTED_DAY] > day - days), minimum)


def expire_values(spec: TableSpec, known: ir.Table, counts: ir.Table, day: int) -> ir.Table:
    """Return a vocabulary in which the rows of values that lose them on an appended day are free.

    A free row has a null `raw`, a `count` of 0 and a null `VOCAB_DAY`.

    Args:
        spec: Configuration of the table.
        known: Vocabulary of the parent.
        counts: Counts of `add_day`.
        day: Appended day, in days from 1970-01-01.
    """
    if spec.expire is None:
        return known
    seen = counts.filter(counts[COUNTED_DAY] > day - spec.expire.unseen_days)
    free = known.anti_join(seen, "raw")
    nulls = {"raw": ibis.null(known["raw"].type()), VOCAB_DAY: ibis.null("int32")}
    free = free.mutate(count=ibis.literal(0, "int64"), **nulls)
    return ibis.union(known.semi_join(seen, "raw"), free.select(known.columns), distinct=False)


@dataclass(frozen=True)
class TableRowCounts:
    """Numbers of rows of an embedding table on an appended day.

    Args:
        in_use: Rows that belong to a value.
        free: Rows for new values: freed ones, and those that were never assigned.
        assigned: Rows that were assigned to a value on this day.
        freed: Rows whose values lost them on this day; some of them may have been assigned again.
    """

    in_use: int
    free: int
    assigned: int
    freed: int

    @classmethod
    def of_files(cls, file: Path, parent_file: Path, day: int, limit: int) -> TableRowCounts:
        """Count the rows of a table.

        Args:
            file: Vocabulary of the appended day.
            parent_file: Vocabulary of the parent.
            day: Appended day, in days from 1970-01-01.
            limit: Number of rows for values.
        """
        (_, in_use), (_, in_use_before) = count_rows(file), count_rows(parent_file)
        with pq.ParquetFile(file) as vocabulary:
            days = (batch.column(0) for batch in vocabulary.iter_batches(columns=[VOCAB_DAY]))
            assigned = sum(pc.sum(pc.equal(each, day)).as_py() or 0 for each in days)
        return cls(in_use, limit - in_use, assigned, in_use_before + assigned - in_use)


def count_rows(file: Path) -> tuple[int, int]:
    """Return the number of rows of a vocabulary, and the number of those that belong to a value."""
    footer = pq.read_metadata(file)
    raw_columns = (footer.row_group(i).column(0) for i in range(footer.num_row_groups))
    return footer.num_rows, footer.num_rows - sum(column.statistics.null_count for column in raw_columns)
