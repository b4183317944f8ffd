"""Files of counted tables, `rates/<table>.parquet`: counts and sums by key and day.

There is a counted table for all rates with the same key, and one for each embedding table whose values are admitted or
expire by the days on which they occur.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from data_prep.engines.base import PART, Engine
from data_prep.output.parts import ParquetPartSink, read_part
from ple_rec.config.prep_rates import DAY

_ROW_GROUP_ROWS = 131_072


def write_counted_tables(engine: Engine, tables: Mapping[str, ir.Table], folder: Path, fingerprint: str) -> None:
    """Write the counted tables of a dataset, sorted by key and day.

    Files that a stopped run has completed are not written again.

    Args:
        engine: Engine that sorts the rows.
        tables: Columns of the key, `DAY`, and counts and sums, in this order, by name of the counted table.
        folder: Folder `rates/` of the dataset, which is created if there are tables.
        fingerprint: Fingerprint of the dataset.
    """
    for name, rows in tables.items():
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.parquet"
        if read_part(path, 0, fingerprint) is not None:
            continue
        keys = rows.columns[: rows.columns.index(DAY)]
        types = {column: pa.string() if rows[column].type().is_string() else pa.int64() for column in rows.columns}
        sink = ParquetPartSink(
            folder=folder,
            schema=pa.schema(types | {DAY: pa.int32()}),
            fingerprint=fingerprint,
            dictionary_columns=(),
            row_group_rows=_ROW_GROUP_ROWS,
            names=(path.name,),
        )
        if not engine.write_parts(rows.mutate(**{PART: ibis.literal(0, "int32")}), [*keys, DAY], sink):
            sink.write_empty(0)
