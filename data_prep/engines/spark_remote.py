"""Reading of Parquet files of an object store by Spark executors, which use pyarrow.

Spark's own reader needs hadoop-aws, which PySpark does not contain. Executors have this package anyway, since they
write the parts (Parquet files of a dataset). Each takes credentials and endpoint from its environment
(`ple_rec.storage`).
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
_TASK_BYTES = 128 << 20  # Bytes that one task reads, as with Spark's own reader.
_TASKS_PER_CORE = 3


@dataclass(frozen=True)
class RemoteRowGroup:
    """Row group of a file, which an executor reads as a whole.

    Args:
        path: Address of the file.
        row_group: Index of the row group in the file.
        position: Number of the group's first row over all files of the table.
        folder_values: Names and values of the columns that folder names give, such as `day=1`.
    """

    path: str
    row_group: int
    position: int
    folder_values: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RemoteRead:
    """Row groups of a table that executors will read.

    Args:
        row_groups: Row groups in the order of their rows.
        schema: Schema of the rows, in types that Spark has.
        size: Total size of the files in bytes.
    """

    row_groups: tuple[RemoteRowGroup, ...]
    schema: pa.Schema
    size: int

    @classmethod
    def plan(
        cls, table: RawTable, files: Sequence[tuple[RawFile, int]], columns: Sequence[str], first: int, stop: int
    ) -> RemoteRead:
        """Plan to read columns and `POSITION`, the number of a row over all files of the table, from an object store.

        Whole row groups are read, so the result may also have rows before `first` and from `stop` on.

        Args:
            table: Table of the files.
            files: Files, each with the position of its first row.
            columns: Names of the columns.
            first: Position of the first row.
            stop: Position after the last row.
        """
        row_groups = tuple(
            group for file, start in files for group in _row_groups_between(file, start, columns, first, stop)
        )
        fields = [pa.field(name, _spark_type(table.schema.field(name).type)) for name in columns]
        schema = pa.schema([*fields, pa.field(POSITION, pa.int64())])
        return cls(row_groups, schema, sum(file.size for file, _ in files))

    def task_count(self, cores: int) -> int:
        """Return the number of Spark tasks that read the files, for a number of cores of all executors."""
        return max(1, min(len(self.row_groups), max(_TASKS_PER_CORE * cores, self.size // _TASK_BYTES)))

    def read_rows(self, indices: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the row groups of one task; it runs on an executor.

        Args:
            indices: Batches whose first column holds indices of `row_groups`.

        Raises:
            DataError: The executor cannot read a file.
        """
        for batch in indices:
            for index in batch.column(0).to_pylist():
                try:
                    yield from _read_row_group(self.row_groups[index], self.schema)
                except (OSError, ValueError, pa.ArrowException) as error:
                    raise _unreadable_error(self.row_groups[index].path, error) from error


def _row_groups_between(
    file: RawFile, start: int, columns: Sequence[str], first: int, stop: int
) -> Iterator[RemoteRowGroup]:
    """Yield the row groups of a file that hold rows from position `first` up to `stop`; the file begins at `start`."""
    folder_values = tuple((name, value) for name, value in file.partitions.items() if name in columns)
    for index, (begin, end) in enumerate(pairwise(accumulate(file.row_groups, initial=start))):
        if begin < stop and end > first:
            yield RemoteRowGroup(file.path, index, begin, folder_values)


def _spark_type(kind: pa.DataType) -> pa.DataType:
    """Return the type in which Spark holds the values of a type; Spark has no unsigned integers and no nanoseconds."""
    if pa.types.is_list(kind):
        return pa.list_(_spark_type(kind.value_type))
    wider = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.uint64(): pa.decimal128(20)}
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return pa.date32() if pa.types.is_date64(kind) else wider.get(kind, kind)


def _cast_for_spark(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(values.type) and values.type.unit == "ns":  # A cast would round times before 1970 up.
        values = pc.floor_temporal(values, unit="microsecond")
    return values.cast(kind, safe=False)


def _unreadable_error(path: str, error: Exception) -> DataError:
    return DataError(
        path,
        f"an executor cannot read it ({' '.join(str(error).split())[:300]})",
        "executors read the store directly, with the credentials and the endpoint of their own environment",
        "check the file, and for S3 AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL",
    )


def _read_row_group(group: RemoteRowGroup, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    folder_values, position = dict(group.folder_values), group.position
    names = [name for name in schema.names if name != POSITION and name not in folder_values]
    options = {"pre_buffer": True, "coerce_int96_timestamp_unit": "us", "page_checksum_verification": True}
    with open_raw_parquet(group.path, **options) as file:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[group.row_group], columns=names, use_threads=False):
            count = batch.num_rows
            columns: dict[str, Any] = {name: batch.column(name) for name in names}
            columns |= {name: pa.repeat(value, count) for name, value in folder_values.items()}
            columns[POSITION] = pa.array(range(position, position + count), pa.int64())
            arrays = [_cast_for_spark(columns[field.name], field.type) for field in schema]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)
            position += count
