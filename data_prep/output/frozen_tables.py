"""Writing of frozen tables, `vectors/<feature>.parquet`: vectors that are stored once for all rows that have them."""

from __future__ import annotations

from pathlib import Path

import ibis
import pyarrow as pa

from data_prep.engines.base import PART
from data_prep.output.parts import ParquetPartSink, read_part
from data_prep.sources.files import POSITION
from data_prep.transforms.vectors import DAY, VECTOR, FrozenVectors
from ple_rec.config.schema import VectorTable

_ROW_GROUP_BYTES = 1 << 26  # Approximate size of the vectors of a row group.


def write_frozen_tables(frozen: FrozenVectors, folder: Path, fingerprint: str) -> dict[str, VectorTable]:
    """Write the frozen tables of a dataset, and return their descriptions by feature.

    Files that a stopped run has completed are not written again.

    Args:
        frozen: Frozen tables of the preparation.
        folder: Folder `vectors/` of the dataset, which is created if there are frozen tables.
        fingerprint: Fingerprint of the dataset.
    """
    tables = {}
    for name, vector in frozen.vectors.items():
        folder.mkdir(exist_ok=True)
        rows = frozen.stored_rows(name)
        keys = [column for column in rows.columns if column not in (POSITION, DAY, VECTOR)]
        types = {key: pa.string() if rows[key].type().is_string() else pa.int64() for key in keys}
        types |= {DAY: pa.int32()} if DAY in rows.columns else {}
        types[VECTOR] = pa.list_(pa.float32(), vector.width)
        path = folder / f"{name}.parquet"
        file = read_part(path, 0, fingerprint)
        if file is None:
            sink = ParquetPartSink(
                folder=folder,
                schema=pa.schema(types),
                fingerprint=fingerprint,
                dictionary_columns=(),
                row_group_rows=max(1, _ROW_GROUP_BYTES // (4 * vector.width)),
                names=(path.name,),
            )
            files = frozen.engine.write_parts(rows.mutate(**{PART: ibis.literal(0, "int32")}), [POSITION], sink)
            file = files[0] if files else sink.write_empty(0)
        side = frozen.resolved.config.sides[frozen.resolved.frozen[name].side]
        tables[name] = VectorTable(keys=tuple(side.on), rows=file.rows, dated=side.day is not None)
    return tables
