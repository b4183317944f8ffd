"""Look-ups of raw values in vocabularies, as SQL joins.

A vocabulary maps the raw values of a column, such as user ids, to rows of an embedding table. A vocabulary of integers
that lie close together may be *spread*: it then has an entry for every integer of a range, known or not. An inner join
with it keeps all rows, and an engine can run that join as an array access.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import ibis.expr.types as ir


@dataclass(frozen=True)
class LookupTable:
    """Vocabulary as a table to join with.

    Args:
        table: Columns `raw` (the value) and `row` (its row in the embedding table). A spread vocabulary has one entry
            for every integer from `low` - 1 to `high`, with a null `row` for unknown values.
        low: Least value of a spread vocabulary; None if it is not spread.
        high: Greatest value of a spread vocabulary; None if it is not spread.
    """

    table: ir.Table
    low: int | None = None
    high: int | None = None


def look_up_sql(rows: str, vocabularies: Mapping[str, LookupTable], quote: Callable[[str], str]) -> str:
    """Return the SQL that adds a column `<column>__row` for each vocabulary, which is null for an unknown value.

    The SQL is not built by Ibis, since the time that Ibis takes for a join grows with the columns of all earlier joins.

    Args:
        rows: SQL of the rows.
        vocabularies: Vocabularies by column of the rows, in the order in which they are joined.
        quote: Function that quotes an identifier in the dialect of the engine.
    """
    selected, joins = ["r.*"], []
    for i, (column, entries) in enumerate(vocabularies.items()):
        value, table, low, high = f"r.{quote(column)}", quote(entries.table.get_name()), entries.low, entries.high
        selected.append(f"e{i}.{quote('row')} AS {quote(f'{column}__row')}")
        if low is None:
            joins.append(f"LEFT JOIN {table} AS e{i} ON {value} = e{i}.raw")
        else:
            # Nulls and integers outside the range are looked up as low - 1, so every value has an entry, and the inner
            # join loses no row.
            inside = f"CASE WHEN {value} BETWEEN {low} AND {high} THEN {value} ELSE {low - 1} END"
            joins.append(f"JOIN {table} AS e{i} ON {inside} = e{i}.raw")
    return f"SELECT {', '.join(selected)} FROM ({rows}) AS r {' '.join(joins)}"
