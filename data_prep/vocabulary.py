"""Raw value -> table row, as Ibis expressions that any engine can run.

Row 0 stands for "out of vocabulary or missing". Rows 1, 2, ... go to the values by descending frequency, then
ascending raw value, so that a vocabulary is a function of the multiset of values and of nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import ibis
import ibis.expr.types as ir


def vocabulary(values: ir.Table, column: str, min_count: int = 1) -> ir.Table:
    """The vocabulary of a column, ordered by row.

    Strings are compared by their UTF-8 bytes. A missing value has no entry.

    Args:
        values: The training rows.
        column: A string or integer column.
        min_count: The least number of times that a value must be seen.

    Returns:
        `raw` (the column's type), `row` (int32, from 1), `count` (int64).
    """
    counted = values.select(raw=values[column]).drop_null("raw")
    counted = counted.group_by("raw").aggregate(count=counted.count().cast("int64"))
    counted = counted.filter(counted["count"] >= min_count)
    order = ibis.window(order_by=[counted["count"].desc(), counted["raw"].asc()])
    row = (ibis.row_number().over(order) + 1).cast("int32")
    return counted.select("raw", "count", row=row).select("raw", "row", "count").order_by("row")


def encode(rows: ir.Table, columns: Mapping[str, str], vocabularies: Mapping[str, ir.Table]) -> ir.Table:
    """Add an `int32` column of table rows for each feature.

    Args:
        rows: Rows with the raw columns.
        columns: Feature name -> raw column.
        vocabularies: Feature name -> its vocabulary.

    Returns:
        `rows` with one column per feature, 0 where the value is missing or not in the vocabulary; rows in any order.
    """
    joined = rows  # one flat chain of joins: nested queries would grow as deep as there are features
    for feature, column in columns.items():
        entries = vocabularies[feature].select(**{f"{feature}__raw": "raw", f"{feature}__row": "row"})
        joined = joined.left_join(entries, rows[column] == entries[f"{feature}__raw"])
    ids = {feature: joined[f"{feature}__row"].fill_null(0).cast("int32") for feature in columns}
    return joined.select(*rows.columns, **ids)
