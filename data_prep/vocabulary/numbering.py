"""Counting and numbering of raw values, as Ibis expressions that every engine can run.

A value gets a row of an embedding table. Row 0 stands for "out of vocabulary or missing". Rows 1, 2, ... go to values
by descending frequency, and by ascending value for equal frequencies. So a vocabulary depends only on how often each
value occurs. One query may number the values of several vocabularies; then the column `PART` holds the index of the
vocabulary that a row belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import PART
from data_prep.transforms.columns import LOG_ROW_COUNT
from ple_rec.config.prep import MAX_ROWS
from ple_rec.config.schema import VOCAB_DAY


def collect_values(
    rows: ir.Table,
    singles: Sequence[str],
    bags: Sequence[str],
    sides: Mapping[str, ir.Table] | None = None,
    others: Sequence[str] = (),
) -> ir.Table:
    """Return the values of several columns as one column `raw`, without missing values.

    Args:
        rows: Rows of the log.
        singles: Names of single-valued columns of `rows`.
        bags: Names of columns of `rows` that hold lists.
        sides: Rows of side tables by name of a column of lists. Their column `LOG_ROW_COUNT` holds the number of log
            rows to which each row is joined. With side tables, the result has this column, too.
        others: Names of other columns of all these tables, such as the day, that the result has, too.
    """
    tables = [rows.select(*others, raw=rows[column]) for column in singles]
    tables += [rows.select(*others, raw=rows[column]).unnest("raw") for column in bags]
    if sides:
        tables = [table.mutate(**{LOG_ROW_COUNT: ibis.literal(1, "int64")}) for table in tables]
        tables += [
            table.select(*others, LOG_ROW_COUNT, raw=table[column]).unnest("raw").select(*others, "raw", LOG_ROW_COUNT)
            for column, table in sides.items()
        ]
    values = tables[0] if len(tables) == 1 else ibis.union(*tables, distinct=False)
    return values.filter(values["raw"].notnull())


def union_vocabularies(tables: Sequence[ir.Table]) -> ir.Table:
    """Return the rows of several vocabularies as one table, with `PART`; a single vocabulary is returned unchanged."""
    if len(tables) == 1:
        return tables[0]
    return ibis.union(*(rows.mutate(**{PART: ibis.literal(i, "int32")}) for i, rows in enumerate(tables)))


def per_vocabulary(rows: ir.Table, numbers: Sequence[int]) -> int | ir.IntegerValue:
    """Return for each row the element of `numbers` for its vocabulary (index `PART`); a number if all are equal."""
    if len(set(numbers)) == 1:
        return numbers[0]
    return ibis.cases(*((rows[PART] == i, number) for i, number in enumerate(numbers)), else_=0)


def count_values(values: ir.Table, min_counts: Sequence[int] = (1,)) -> ir.Table:
    """Count the values, and return those that occur often enough, with their number in the column `count`.

    Args:
        values: Column `raw`, and `PART` if there are several vocabularies. A column `LOG_ROW_COUNT`, if there is one,
            says how often each row counts.
        min_counts: Number of times that a value must occur, by index of the vocabulary.
    """
    total = values[LOG_ROW_COUNT].sum() if LOG_ROW_COUNT in values.columns else values.count()
    counted = values.group_by([*_vocabulary_key(values), "raw"]).aggregate(count=total.cast("int64"))
    if max(min_counts) == 1:
        return counted
    min_count = per_vocabulary(counted, min_counts)
    return counted.filter(counted["count"] >= min_count)


def assign_rows(counts: ir.Table, last_rows: Sequence[int] = (0,)) -> ir.Table:
    """Assign rows to the values of vocabularies by descending count, then ascending value.

    Strings are compared by their UTF-8 bytes.

    Args:
        counts: Columns `raw` and `count`, and `PART` if there are several vocabularies.
        last_rows: Last row of each vocabulary that belongs to a value already; 0 for a new vocabulary.

    Returns:
        Columns `raw`, `row` (int32, from `last_rows` + 1 on), `count` (int64), and `PART` if `counts` has it. All
        values beyond `MAX_ROWS` get the row `MAX_ROWS`; a caller has to leave them out or refuse them.
    """
    keys = _vocabulary_key(counts)
    order = ibis.window(group_by=keys, order_by=[counts["count"].desc(), counts["raw"].asc()])
    row = ibis.least(ibis.row_number().over(order) + (per_vocabulary(counts, last_rows) + 1), MAX_ROWS).cast("int32")
    return counts.select("raw", *keys, row=row, count=counts["count"])


def assign_freed_rows(counts: ir.Table, freed: ir.Table, freed_rows: int, last_row: int) -> ir.Table:
    """Assign rows to the values of one vocabulary as `assign_rows` does, but its freed rows first, in ascending order.

    Args:
        counts: Columns `raw` and `count`.
        freed: Rows of the vocabulary without a value, in the column `row`.
        freed_rows: Number of these rows.
        last_row: Last row of the vocabulary.
    """
    numbered = assign_rows(counts)  # The values get the numbers 1, 2, ... in the order in which rows are assigned.
    numbers = freed.select(freed_row=freed["row"], number=ibis.row_number().over(order_by=freed["row"]) + 1)
    joined = numbered.left_join(numbers, numbered["row"] == numbers["number"])
    # When all freed rows are assigned, the other values get the rows after the last one.
    later_row = ibis.least(joined["row"].cast("int64") + (last_row - freed_rows), MAX_ROWS).cast("int32")
    return joined.select("raw", row=joined["freed_row"].fill_null(later_row).cast("int32"), count=joined["count"])


def new_values(counts: ir.Table, known: ir.Table) -> ir.Table:
    """Return the rows of `counts` whose values are not in `known`."""
    return counts.anti_join(known, [counts[key] == known[key] for key in (*_vocabulary_key(counts), "raw")])


def with_days(entries: ir.Table) -> ir.Table:
    """Return a vocabulary with the column `VOCAB_DAY`, which is null if a version without such days has written it."""
    days = entries[VOCAB_DAY] if VOCAB_DAY in entries.columns else ibis.null("int32")
    return entries.select("raw", "row", "count", **{VOCAB_DAY: days})


def _vocabulary_key(rows: ir.Table) -> list[str]:
    """Return the columns that tell vocabularies apart: `PART` if there are several, else none."""
    return [PART] if PART in rows.columns else []


def spread_over_range(entries: ir.Table, low: int, high: int) -> ir.Table:
    """Return a vocabulary with an entry for every integer from `low` - 1 to `high`, whose `row` may be null.

    An integer that is not in `entries` has a null `row`. Integers outside the range are looked up as `low` - 1. So each
    look-up finds an entry, and an inner join suffices, which an engine can run as an array access.

    Args:
        entries: Vocabulary with the columns `raw`, of integers, and `row`.
        low: Least value of the vocabulary.
        high: Greatest value of the vocabulary.
    """
    integers = ibis.range(low - 1, high + 1).unnest().name("key").as_table()
    joined = integers.left_join(entries, integers["key"] == entries["raw"])
    return joined.select(raw=joined["key"].cast("int64"), row=joined["row"])
