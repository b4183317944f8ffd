"""Raw value -> table row, as Ibis expressions that any engine can run.

Row 0 stands for "out of vocabulary or missing". Rows 1, 2, ... go to the values by descending frequency, then
ascending raw value, so that a vocabulary is a function of the multiset of values and of nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir

from ple_rec.config.prep import MAX_ROWS


def values_of(rows: ir.Table, singles: Sequence[str], bags: Sequence[str]) -> ir.Table:
    """The values of several columns, single-valued and lists, as one column `raw`; nothing where they are missing."""
    tables = [rows.select(raw=rows[column]) for column in singles]
    tables += [rows.select(raw=rows[column]).unnest("raw") for column in bags]
    values = tables[0] if len(tables) == 1 else ibis.union(*tables, distinct=False)
    return values.filter(values["raw"].notnull())


def counts_of(values: ir.Table, min_count: int = 1) -> ir.Table:
    """How often each value occurs, `raw` and `count` (int64), of those that occur often enough."""
    counted = values.group_by("raw").aggregate(count=values.count().cast("int64"))
    return counted.filter(counted["count"] >= min_count) if min_count > 1 else counted


def numbered(counts: ir.Table, after: int = 0) -> ir.Table:
    """Give rows to values.

    Strings are compared by their UTF-8 bytes.

    Args:
        counts: `raw` and `count`.
        after: The last row that is taken.

    Returns:
        `raw` (the column's type), `row` (int32, from `after` + 1, at most MAX_ROWS), `count` (int64).
    """
    order = ibis.window(order_by=[counts["count"].desc(), counts["raw"].asc()])
    row = ibis.least(ibis.row_number().over(order) + (after + 1), MAX_ROWS).cast("int32")
    return counts.select("raw", row=row, count=counts["count"])


def new_values(counts: ir.Table, known: ir.Table) -> ir.Table:
    """Those of `counts` that have no row yet."""
    return counts.anti_join(known, counts["raw"] == known["raw"])
