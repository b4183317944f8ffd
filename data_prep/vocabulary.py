"""Raw value -> table row, as Ibis expressions that any engine can run.

Row 0 stands for "out of vocabulary or missing". Rows 1, 2, ... go to the values by descending frequency, then
ascending raw value, so that a vocabulary is a function of the multiset of values and of nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from ple_rec.config.prep import MAX_ROWS

TIMES = "__times"  # how many rows of the log meet a row of a side table


@dataclass(frozen=True)
class Entries:
    """A vocabulary as rows are joined with it.

    Args:
        table: `raw` and `row`; where it is spread, one entry for every integer from `low` - 1 to `high`.
        low: The least value of a vocabulary that is spread.
        high: The greatest one.
    """

    table: ir.Table
    low: int | None = None
    high: int | None = None

    def found(self, rows: ir.Table, raw: str, name: str) -> ir.Table:
        """`rows` with a column `name`, the row of what stands in column `raw`, or null; and `name__raw`."""
        key = f"{name}__raw"
        entries = self.table.select(**{key: self.table["raw"], name: self.table["row"]})
        if self.low is None or self.high is None:
            return rows.left_join(entries, rows[raw] == entries[key])
        inside = ibis.ifelse(rows[raw].between(self.low, self.high), rows[raw], self.low - 1)
        return rows.inner_join(entries, inside == entries[key])


def values_of(
    rows: ir.Table, singles: Sequence[str], bags: Sequence[str], sides: Mapping[str, ir.Table] | None = None
) -> ir.Table:
    """The values of several columns as one column `raw`; nothing where they are missing.

    Args:
        rows: Of the log.
        singles: Their single-valued columns.
        bags: Their columns of lists.
        sides: By column, rows of a side table with that column of lists, and `TIMES`; so has the result, if there are
            any.
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


def counts_of(values: ir.Table, min_count: int = 1) -> ir.Table:
    """How often each value occurs, `raw` and `count` (int64), of those that occur often enough."""
    times = values[TIMES].sum() if TIMES in values.columns else values.count()
    counted = values.group_by("raw").aggregate(count=times.cast("int64"))
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


def spread(entries: ir.Table, low: int, high: int) -> ir.Table:
    """A vocabulary of integers as one entry for every integer from `low` - 1 to `high`; null rows where none is.

    A look-up that always finds an entry, `low` - 1 for all that is outside, is an inner join over consecutive keys,
    which an engine can do as an array access.
    """
    every = ibis.range(low - 1, high + 1).unnest().name("key").as_table()
    joined = every.left_join(entries, every["key"] == entries["raw"])
    return joined.select(raw=joined["key"].cast("int64"), row=joined["row"])
