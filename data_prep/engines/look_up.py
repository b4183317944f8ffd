"""Look-ups of values in vocabularies, as joins of an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import ibis.expr.types as ir


@dataclass(frozen=True)
class Entries:
    """Vocabulary in the form in which rows are joined with it.

    Args:
        table: Columns `raw` and `row`; a spread vocabulary has one entry for every integer from `low` - 1 to `high`.
        low: Least value of a spread vocabulary; None if it is not spread.
        high: Greatest value of a spread vocabulary; None if it is not spread.
    """

    table: ir.Table
    low: int | None = None
    high: int | None = None


def look_up_sql(rows: str, vocabularies: Mapping[str, Entries], quoted: Callable[[str], str]) -> str:
    """Return the query that adds a column `<column>__row` for each vocabulary; an unknown value has null there.

    The query is not built by Ibis, whose time for a join grows with the columns of all joins before it.

    Args:
        rows: Query of the rows.
        vocabularies: Vocabularies by column of the rows, in the order in which they are joined.
        quoted: Function that quotes a name.
    """
    picks, joins = ["r.*"], []
    for i, (column, entries) in enumerate(vocabularies.items()):
        value, table, low, high = f"r.{quoted(column)}", quoted(entries.table.get_name()), entries.low, entries.high
        picks.append(f"e{i}.{quoted('row')} AS {quoted(f'{column}__row')}")
        if low is None:
            joins.append(f"LEFT JOIN {table} AS e{i} ON {value} = e{i}.raw")
        else:
            # Every integer has an entry, those outside the vocabulary that of low - 1, so an inner join keeps all rows.
            inside = f"CASE WHEN {value} BETWEEN {low} AND {high} THEN {value} ELSE {low - 1} END"
            joins.append(f"JOIN {table} AS e{i} ON {inside} = e{i}.raw")
    return f"SELECT {', '.join(picks)} FROM ({rows}) AS r {' '.join(joins)}"
