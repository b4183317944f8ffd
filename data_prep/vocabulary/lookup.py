"""Raw value -> table row, as Ibis expressions that any engine can run.

Row 0 stands for "out of vocabulary or missing". Rows 1, 2, ... go to the values by descending frequency, then
ascending raw value, so that a vocabulary is a function of the multiset of values and of nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from data_prep.output.parts import PART
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


def look_up_sql(rows: str, vocabularies: Mapping[str, Entries], quoted: Callable[[str], str]) -> str:
    """Return the query that adds to `rows`, for each column, its row of the vocabulary as `<column>__row`, or null.

    It is written out because the time that Ibis takes for a join grows with the columns of all joins before it.

    Args:
        rows: Query of the rows.
        vocabularies: Vocabularies by column of the rows, joined in this order.
        quoted: Function that quotes a name.
    """
    picks, joins = ["r.*"], []
    for i, (column, entries) in enumerate(vocabularies.items()):
        value, table, low, high = f"r.{quoted(column)}", quoted(entries.table.get_name()), entries.low, entries.high
        picks.append(f"e{i}.{quoted('row')} AS {quoted(f'{column}__row')}")
        if low is None:
            joins.append(f"LEFT JOIN {table} AS e{i} ON {value} = e{i}.raw")
        else:
            inside = f"CASE WHEN {value} BETWEEN {low} AND {high} THEN {value} ELSE {low - 1} END"
            joins.append(f"JOIN {table} AS e{i} ON {inside} = e{i}.raw")
    return f"SELECT {', '.join(picks)} FROM ({rows}) AS r {' '.join(joins)}"


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


def beside(tables: Sequence[ir.Table]) -> ir.Table:
    """Return the rows of several vocabularies as one table, which `PART` tells apart; those of one as they are."""
    if len(tables) == 1:
        return tables[0]
    return ibis.union(*(rows.mutate(**{PART: ibis.literal(i, "int32")}) for i, rows in enumerate(tables)))


def of_each(rows: ir.Table, numbers: Sequence[int]) -> int | ir.IntegerValue:
    """Return the number that belongs to the vocabulary of a row; `numbers` are in the order of `PART`."""
    if len(set(numbers)) == 1:
        return numbers[0]
    return ibis.cases(*((rows[PART] == i, number) for i, number in enumerate(numbers)), else_=0)


def counts_of(values: ir.Table, min_counts: Sequence[int] = (1,)) -> ir.Table:
    """Count the values of vocabularies: `raw` and `count` (int64), of those that occur often enough in theirs."""
    times = values[TIMES].sum() if TIMES in values.columns else values.count()
    counted = values.group_by([*_apart(values), "raw"]).aggregate(count=times.cast("int64"))
    if max(min_counts) == 1:
        return counted
    min_count = of_each(counted, min_counts)
    return counted.filter(counted["count"] >= min_count)


def numbered(counts: ir.Table, after: Sequence[int] = (0,)) -> ir.Table:
    """Give rows to values.

    Strings are compared by their UTF-8 bytes.

    Args:
        counts: `raw` and `count`, and `PART` of several vocabularies.
        after: The last row that is taken, of each vocabulary.

    Returns:
        `raw` (the column's type), `row` (int32, from `after` + 1, at most MAX_ROWS), `count` (int64), and `PART`.
    """
    keys = _apart(counts)
    order = ibis.window(group_by=keys, order_by=[counts["count"].desc(), counts["raw"].asc()])
    row = ibis.least(ibis.row_number().over(order) + (of_each(counts, after) + 1), MAX_ROWS).cast("int32")
    return counts.select("raw", *keys, row=row, count=counts["count"])


def new_values(counts: ir.Table, known: ir.Table) -> ir.Table:
    """Return those of `counts` that have no row yet."""
    return counts.anti_join(known, [counts[key] == known[key] for key in (*_apart(counts), "raw")])


def _apart(rows: ir.Table) -> list[str]:
    """Return the column that tells vocabularies apart, if there are several."""
    return [PART] if PART in rows.columns else []


def spread(entries: ir.Table, low: int, high: int) -> ir.Table:
    """A vocabulary of integers as one entry for every integer from `low` - 1 to `high`; null rows where none is.

    A look-up that always finds an entry, `low` - 1 for all that is outside, is an inner join over consecutive keys,
    which an engine can do as an array access.
    """
    every = ibis.range(low - 1, high + 1).unnest().name("key").as_table()
    joined = every.left_join(entries, every["key"] == entries["raw"])
    return joined.select(raw=joined["key"].cast("int64"), row=joined["row"])
