"""Ways to spoil the logs of `plain_logs`: other values, other types, damaged files."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data_prep.plain_logs import DAY_ROWS, Logs, day_of, with_column

NAN, INF = math.nan, math.inf

Spoil = Callable[[Logs], object]


def everywhere(column: str, values: Callable[[int], Any] | Any, kind: pa.DataType | None = None) -> Spoil:
    """Other values in the files of all days."""

    def spoil(logs: Logs) -> None:
        for day in range(1, 5):
            logs.spoil(day, column, values(day) if callable(values) else values, kind)

    return spoil


def wide(*days: int) -> Spoil:
    """A user beyond int64 in the last row of some days, and all users uint64."""

    def spoil(logs: Logs) -> None:
        for day in range(1, 5):
            users = [*range(DAY_ROWS - 1), 2**63 + 5 if day in days else 7]
            logs.spoil(day, "user_id", users, pa.uint64())

    return spoil


def not_utf8(logs: Logs) -> None:
    texts = pa.array([b"v\xff1" if i == 14 else b"v1" for i in range(DAY_ROWS)], pa.binary())
    logs.write(2, with_column(day_of(2), "video_id", pa.Array.from_buffers(pa.string(), DAY_ROWS, texts.buffers())))


def a_day_of_nan_among_ones(logs: Logs) -> None:
    """Statistics leave NaN out, so that the file says that every label is 1."""
    everywhere("is_like", [1.0] * DAY_ROWS, pa.float64())(logs)
    logs.spoil(2, "is_like", [1.0] * 9 + [NAN] + [1.0] * (DAY_ROWS - 10), pa.float64())


def corrupt(logs: Logs) -> None:
    """A page of `video_id` in the second row group is not what it was."""
    data = bytearray(logs.file(2).read_bytes())
    column = pq.read_metadata(logs.file(2)).row_group(1).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    data[start + 4 : start + 40] = bytes(byte ^ 0x5A for byte in data[start + 4 : start + 40])
    logs.file(2).write_bytes(bytes(data))


def corrupt_values(logs: Logs) -> None:
    """Bytes of packed values, whose page says what they should add up to."""
    logs.write(2, day_of(2), compression="snappy", write_page_checksum=True, use_dictionary=False)
    data = bytearray(logs.file(2).read_bytes())
    column = pq.read_metadata(logs.file(2)).row_group(1).column(1)
    end = column.data_page_offset + column.total_compressed_size
    data[end - 30 : end] = b"\xff" * 30
    logs.file(2).write_bytes(bytes(data))


def flip_a_bit(logs: Logs) -> None:
    """Of an integer, so that every engine reads another one."""
    logs.write(2, day_of(2), compression="none", write_page_checksum=True, use_dictionary=False)
    data = bytearray(logs.file(2).read_bytes())
    column = pq.read_metadata(logs.file(2)).row_group(1).column(0)
    data[column.data_page_offset + column.total_compressed_size - 8] ^= 1
    logs.file(2).write_bytes(bytes(data))


def flip_a_bit_below_an_empty_row_group(logs: Logs) -> None:
    """Of whose pages there are none that would show whether pages have checksums."""
    table = day_of(2)
    options = {"compression": "none", "write_page_checksum": True, "use_dictionary": False}
    with pq.ParquetWriter(logs.file(2), table.schema, **options) as writer:
        writer.write_table(table.slice(0, 0))
        writer.write_table(table)
    data = bytearray(logs.file(2).read_bytes())
    column = pq.read_metadata(logs.file(2)).row_group(1).column(0)
    data[column.data_page_offset + column.total_compressed_size - 8] ^= 1
    logs.file(2).write_bytes(bytes(data))


def damage_a_header(logs: Logs) -> None:
    """Numbers in the header of the first page that never end."""
    logs.write(2, day_of(2), compression="none", write_page_checksum=True, use_dictionary=False)
    data = bytearray(logs.file(2).read_bytes())
    start = pq.read_metadata(logs.file(2)).row_group(0).column(0).data_page_offset
    data[start + 1 : start + 40] = b"\xff" * 39
    logs.file(2).write_bytes(bytes(data))


def no_rows(logs: Logs) -> None:
    for day in range(1, 5):
        logs.write(day, day_of(day).slice(0, 0))


def truncated(logs: Logs) -> None:
    logs.file(2).write_bytes(logs.file(2).read_bytes()[:-40])
