"""Reading of Parquet files of an object store by Spark executors, which use pyarrow.

Spark's own reader needs hadoop-aws, which PySpark does not contain. Executors have this package anyway, since they
write the parts; each takes credentials and endpoint from its environment (`ple_rec.storage`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.sources.files import POSITION, RawFile, RawTable
from data_prep.sources.remote import open_raw_parquet
from ple_rec.errors import DataError

BATCH_ROWS = 65_536
_TASK_BYTES = 128 << 20  # One task reads so many bytes, as with Spark's own reader.
_TASKS_PER_CORE = 3


@dataclass(frozen=True)
class RemoteRowGroup:
    """Row group of a file, which an executor reads as a whole.

    Args:
        path: Address of the file.
        row_group: Index of the row group in the file.
        position: Position of the first row of the row group.
        folders: Names and values of the columns that stand in names of folders.
    """

    path: str
    row_group: int
    position: int
    folders: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RemoteRead:
    """Plan by which executors read a table.

    Args:
        units: Row groups in the order of their rows.
        schema: Schema of the rows, in types that Spark has.
        size: Total size of the files in bytes.
    """

    units: tuple[RemoteRowGroup, ...]
    schema: pa.Schema
    size: int

    @classmethod
    def of(
        cls, table: RawTable, files: Sequence[tuple[RawFile, int]], columns: Sequence[str], first: int, last: int
    ) -> RemoteRead:
        """Plan to read columns and `POSITION` of files in an object store.

        Whole row groups are read, so rows before `first` and after `last` may come, too.

        Args:
            table: Table of the files.
            files: Files, each with the position of its first row.
            columns: Names of the columns.
            first: Position of the first row.
            last: Position after the last row.
        """
        units = tuple(unit for file, start in files for unit in _units(file, start, columns, first, last))
        fields = [pa.field(name, _spark_type(table.schema.field(name).type)) for name in columns]
        schema = pa.schema([*fields, pa.field(POSITION, pa.int64())])
        return cls(units, schema, sum(file.size for file, _ in files))

    def tasks(self, cores: int) -> int:
        """Return the number of tasks that read the files."""
        return max(1, min(len(self.units), max(_TASKS_PER_CORE * cores, self.size // _TASK_BYTES)))

    def rows(self, numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield, on an executor, the rows of the units of one task.

        Args:
            numbers: Batches whose first column holds the indices of the units.

        Raises:
            DataError: The executor cannot read a file.
        """
        for batch in numbers:
            for number in batch.column(0).to_pylist():
                try:
                    yield from _rows(self.units[number], self.schema)
                except (OSError, ValueError, pa.ArrowException) as error:
                    raise _unreadable(self.units[number].path, error) from error


def _units(file: RawFile, start: int, columns: Sequence[str], first: int, last: int) -> Iterator[RemoteRowGroup]:
    folders = tuple((name, value) for name, value in file.partitions.items() if name in columns)
    for group, (begin, end) in enumerate(pairwise(accumulate(file.row_groups, initial=start))):
        if begin < last and end > first:
            yield RemoteRowGroup(file.path, group, begin, folders)


def _spark_type(kind: pa.DataType) -> pa.DataType:
    """Return the type in which Spark holds the values of a type: it has no unsigned integers, and only microseconds."""
    if pa.types.is_list(kind):
        return pa.list_(_spark_type(kind.value_type))
    wider = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.uint64(): pa.decimal128(20)}
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return pa.date32() if pa.types.is_date64(kind) else wider.get(kind, kind)


def _converted(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(values.type) and values.type.unit == "ns":  # A cast would round toward 1970.
        values = pc.floor_temporal(values, unit="microsecond")
    return values.cast(kind, safe=False)


def _unreadable(path: str, error: Exception) -> DataError:
    return DataError(
        path,
        f"an executor cannot read it ({' '.join(str(error).split())[:300]})",
        "executors read the store themselves, with the credentials and the endpoint of their environment",
        "check the file, and (of S3) AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL",
    )


def _rows(unit: RemoteRowGroup, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    folders, position = dict(unit.folders), unit.position
    names = [name for name in schema.names if name != POSITION and name not in folders]
    options = {"pre_buffer": True, "coerce_int96_timestamp_unit": "us", "page_checksum_verification": True}
    with open_raw_parquet(unit.path, **options) as file:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[unit.row_group], columns=names, use_threads=False):
            count = batch.num_rows
            columns: dict[str, Any] = {name: batch.column(name) for name in names}
            columns |= {name: pa.repeat(value, count) for name, value in folders.items()}
            columns[POSITION] = pa.array(range(position, position + count), pa.int64())
            arrays = [_converted(columns[field.name], field.type) for field in schema]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)
            position += count
