"""Counting and numbering of the values of a table, in Ibis expressions that every engine can run.

Row 0 stands for "out of vocabulary or missing". Rows 1, 2, ... go to the values by descending frequency, then
ascending raw value, so a vocabulary depends on nothing but the multiset of values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import PART
from data_prep.transforms.columns import TIMES
from ple_rec.config.prep import MAX_ROWS


def values_of(
    rows: ir.Table, singles: Sequence[str], bags: Sequence[str], sides: Mapping[str, ir.Table] | None = None
) -> ir.Table:
    """Return the values of several columns as one column `raw`, without missing values.

    Args:
        rows: Rows of the log.
        singles: Names of single-valued columns of `rows`.
        bags: Names of columns of `rows` that hold lists.
        sides: Rows of side tables by name of a column of lists, with `TIMES`. With any, the result has `TIMES`, too.
    """
    tables = [rows.select(raw=rows[column]) for column in singles]
    tables += [rows.select(raw=rows[column]).unnest("raw") for column in bags]
    if sides:
        tables = [table.mutate(**{TIMES: ibis.literal(1, "int64")}) for table in tables]
        tables += [
            table.select(TIMES, raw=table[column]).unnest("raw").select("raw", TIMES) for column, table in sides.items()
        ]
    values = tables[0] if len(tables) == 1 else ibis.union(*tables, distinct=False)
    return values.filter(values["raw"].notnull())


def beside(tables: Sequence[ir.Table]) -> ir.Table:
    """Return the rows of several vocabularies as one table with the index of each in `PART`; of one, without `PART`."""
    if len(tables) == 1:
        return tables[0]
    return ibis.union(*(rows.mutate(**{PART: ibis.literal(i, "int32")}) for i, rows in enumerate(tables)))


def of_each(rows: ir.Table, numbers: Sequence[int]) -> int | ir.IntegerValue:
    """Return, for each row, the number of its vocabulary; `numbers` are in the order of `PART`."""
    if len(set(numbers)) == 1:
        return numbers[0]
    return ibis.cases(*((rows[PART] == i, number) for i, number in enumerate(numbers)), else_=0)


def counts_of(values: ir.Table, min_counts: Sequence[int] = (1,)) -> ir.Table:
    """Return `raw` and `count` (int64) of the values that occur at least `min_counts` times in their vocabulary."""
    times = values[TIMES].sum() if TIMES in values.columns else values.count()
    counted = values.group_by([*_part_key(values), "raw"]).aggregate(count=times.cast("int64"))
    if max(min_counts) == 1:
        return counted
    min_count = of_each(counted, min_counts)
    return counted.filter(counted["count"] >= min_count)


def numbered(counts: ir.Table, after: Sequence[int] = (0,)) -> ir.Table:
    """Assign rows to the values of vocabularies by descending count, then ascending value.

    Strings are compared by their UTF-8 bytes.

    Args:
        counts: Columns `raw` and `count`, and `PART` if there are several vocabularies.
        after: Last row of each vocabulary that already belongs to a value.

    Returns:
        Columns `raw`, `row` (int32, from `after` + 1, at most MAX_ROWS), `count` (int64), and `PART` as in `counts`.
    """
    keys = _part_key(counts)
    order = ibis.window(group_by=keys, order_by=[counts["count"].desc(), counts["raw"].asc()])
    row = ibis.least(ibis.row_number().over(order) + (of_each(counts, after) + 1), MAX_ROWS).cast("int32")
    return counts.select("raw", *keys, row=row, count=counts["count"])


def new_values(counts: ir.Table, known: ir.Table) -> ir.Table:
    """Return the rows of `counts` whose values `known` does not have."""
    return counts.anti_join(known, [counts[key] == known[key] for key in (*_part_key(counts), "raw")])


def _part_key(rows: ir.Table) -> list[str]:
    """Return the key columns of a vocabulary: `PART` if there are several."""
    return [PART] if PART in rows.columns else []


def spread(entries: ir.Table, low: int, high: int) -> ir.Table:
    """Return a vocabulary with an entry for every integer from `low` - 1 to `high`; its row is null if it is no value.

    Integers outside are looked up as `low` - 1, so each look-up has an entry. Then an inner join over consecutive keys
    suffices, which an engine can run as an array access.
    """
    every = ibis.range(low - 1, high + 1).unnest().name("key").as_table()
    joined = every.left_join(entries, every["key"] == entries["raw"])
    return joined.select(raw=joined["key"].cast("int64"), row=joined["row"])
