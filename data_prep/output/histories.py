"""Files of the events of histories: raw values in Parquet, and encoded values as arrays that readers map into memory.

    histories/<history>.parquet        `key`, `time` and `item_<feature>` of each event: what an appended day reads
    histories/<history>/log_time.npy   int64, seconds since 1970-01-01 UTC
    histories/<history>/<feature>.npy  int32, rows of the embedding table, as in the column of the feature

All files have the events in one order, by which offsets count them: by key, time and the raw values of the items.
Among events with the same key and time, those without some items come last.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from data_prep.engines.base import PART, Engine, PartFile
from data_prep.engines.look_up import LookupTable
from data_prep.output.parts import ParquetPartSink, read_part
from data_prep.output.writer import UNFINISHED
from data_prep.transforms.arithmetic import seconds_of_count
from data_prep.transforms.encode import encode_features
from data_prep.transforms.history_values import EVENT_TIME, event_order, item_column, with_missing
from ple_rec.config.prep import HistorySpec, PrepConfig
from ple_rec.config.schema import LOG_TIME, Table

_ROW_GROUP_ROWS = 131_072
_ID = "id_"  # Prefix of columns with the encoded items.


def write_events(
    engine: Engine,
    config: PrepConfig,
    events: Mapping[str, ir.Table],
    vocabularies: Mapping[str, LookupTable],
    tables: Mapping[str, Table],
    folder: Path,
    fingerprint: str,
) -> dict[str, int]:
    """Write the files of the events of all histories, and return the number of events by history.

    The files of a history are not written again if a stopped run has completed them.

    Args:
        engine: Engine that encodes and sorts the events.
        config: Configuration, with the values that are computed from the log filled in.
        events: Events with raw values by history, in any order; see `data_prep.transforms.histories.log_events`.
        vocabularies: Vocabularies by table; the tables of bucketised features have none.
        tables: Embedding tables by name.
        folder: Folder `histories/` of the dataset, which is created if there are histories.
        fingerprint: Fingerprint of the dataset.
    """
    counts = {}
    for history in config.histories:
        raw = events[history.name]
        kinds = {column: _arrow_type(raw[column]) for column in raw.columns}
        path = folder / f"{history.name}.parquet"
        sink = EventSink(
            ParquetPartSink(
                folder=folder,
                schema=pa.schema(kinds),
                fingerprint=fingerprint,
                dictionary_columns=(),
                row_group_rows=_ROW_GROUP_ROWS,
                names=(path.name,),
            ),
            {LOG_TIME: folder / history.name / f"{LOG_TIME}.npy"}
            | {f"{_ID}{item}": folder / history.name / f"{item}.npy" for item in history.items},
        )
        file = read_part(path, 0, fingerprint)
        if file is None or not all(array.exists() for array in sink.arrays.values()):
            (folder / history.name).mkdir(parents=True, exist_ok=True)
            rows = _encode(engine, config, history, raw, vocabularies, tables)
            files = engine.write_parts(rows, event_order(history), sink)
            file = files[0] if files else sink.write_empty()
        counts[history.name] = file.rows
    return counts


def _encode(
    engine: Engine,
    config: PrepConfig,
    history: HistorySpec,
    events: ir.Table,
    vocabularies: Mapping[str, LookupTable],
    tables: Mapping[str, Table],
) -> ir.Table:
    """Return events with their encoded items, their time in seconds, and the columns by which they are sorted."""
    assert config.time is not None
    features = {feature.name: feature for feature in config.sparse}
    rows = with_missing(events, history).mutate(
        **{f"raw__{_ID}{item}": events[item_column(item)] for item in history.items},
        **{LOG_TIME: seconds_of_count(events[EVENT_TIME], config.time.unit).cast("int64")},
        **{PART: ibis.literal(0, "int32")},
    )
    items = [
        features[item].model_copy(update={"name": f"{_ID}{item}", "table": features[item].table_name})
        for item in history.items
    ]
    return encode_features(engine, rows, items, vocabularies, tables)


def _arrow_type(value: ir.Value) -> pa.DataType:
    if isinstance(value, ir.StringValue):
        return pa.string()
    return pa.float64() if isinstance(value, ir.FloatingValue) else pa.int64()


@dataclass(frozen=True)
class EventSink:
    """Receiver of the sorted events of a history, which writes the Parquet file and the arrays; see `PartSink`.

    Args:
        parquet: Sink of the raw values.
        arrays: Files of the arrays by column; the column `LOG_TIME` is int64, the others are int32.
    """

    parquet: ParquetPartSink
    arrays: Mapping[str, Path]

    @property
    def folder(self) -> Path:
        """Folder of the Parquet file."""
        return self.parquet.folder

    @property
    def schema(self) -> pa.Schema:
        """Columns of the events: raw values, and values of the arrays."""
        arrays = [(name, pa.int64() if name == LOG_TIME else pa.int32()) for name in self.arrays]
        return pa.schema([*self.parquet.schema, *(pa.field(name, kind) for name, kind in arrays)])

    def write(self, batches: Iterable[pa.RecordBatch]) -> Iterator[PartFile]:
        """Write all events, and yield the Parquet file when all files are complete."""
        writers = {name: _ArrayWriter(file, self.schema.field(name).type) for name, file in self.arrays.items()}

        def write_arrays() -> Iterator[pa.RecordBatch]:
            for batch in batches:
                for name, writer in writers.items():
                    writer.write(batch.column(name))
                yield batch

        try:
            files = list(self.parquet.write(write_arrays()))
            if files:
                for writer in writers.values():
                    writer.close()
        finally:
            if isinstance(batches, Generator):  # An unfinished query must end before its engine is closed.
                batches.close()
            for writer in writers.values():
                writer.discard()
        yield from files

    def write_empty(self) -> PartFile:
        """Write files without events."""
        for name, file in self.arrays.items():
            _ArrayWriter(file, self.schema.field(name).type).close()
        return self.parquet.write_empty(0)


class _ArrayWriter:
    """Writer of a one-dimensional array in the format of NumPy; the file gets its name when it is complete."""

    def __init__(self, path: Path, kind: pa.DataType) -> None:
        self.path, self.dtype, self.rows = path, np.dtype(kind.to_pandas_dtype()).newbyteorder("<"), 0
        # Spark may run a task twice at the same time and use the result of one of them, so each run of a task writes to
        # a file of its own.
        self.unfinished = path.with_suffix(f".{secrets.token_hex(4)}{UNFINISHED}")
        self.file = self.unfinished.open("wb")
        self._write_header()

    def _write_header(self) -> None:
        """Write the header, which has the number of rows; NumPy pads it, so its size does not depend on them."""
        content: dict[str, Any] = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows,)}
        np.lib.format.write_array_header_1_0(self.file, content)

    def write(self, values: pa.Array) -> None:
        self.file.write(values.to_numpy(zero_copy_only=False).astype(self.dtype).tobytes())
        self.rows += len(values)

    def close(self) -> None:
        self.file.seek(0, os.SEEK_SET)
        self._write_header()
        self.file.close()
        self.unfinished.replace(self.path)

    def discard(self) -> None:
        self.file.close()
        self.unfinished.unlink(missing_ok=True)
