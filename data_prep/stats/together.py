"""The rows of all splits as one table, so that one query serves them all."""

from __future__ import annotations

from collections.abc import Mapping

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc

from ple_rec.config.base import Split

SPLIT = "split__"


def together(parts: Mapping[Split, ir.Table]) -> ir.Table:
    """The rows of every split, with its place among `parts` in a column of its own."""
    tables = [rows.mutate(**{SPLIT: ibis.literal(place, "int32")}) for place, rows in enumerate(parts.values())]
    return ibis.union(*tables) if len(tables) > 1 else tables[0]


def apart(table: pa.Table, parts: Mapping[Split, ir.Table]) -> dict[Split, pa.Table]:
    """A result by split, without the column; a split of no rows has an empty table."""
    return {
        split: table.filter(pc.equal(table[SPLIT], place)).drop_columns([SPLIT]) for place, split in enumerate(parts)
    }
