"""Checksums of the pages of raw Parquet files: verified before the engine reads them, which verifies none.

Spark, parquet-mr and this package write a CRC-32 into the header of every page; many other writers write none.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.diagnose import damage
from data_prep.sources.files import RawFile
from data_prep.sources.remote import opened
from data_prep.transforms.resolve import Resolved

_THREADS = 2
_ROWS = 65_536  # rows decoded at a time
_HEADER_BYTES = 32  # bytes that the first four fields of a page header take at most
_INT_FIELD = 0x15  # header of a field in Thrift's compact protocol: an i32 whose number is the last one's plus 1


def check_pages(resolved: Resolved) -> None:
    """Read the columns that a configuration uses of its raw files, and refuse a page that does not fit its checksum.

    Files without checksums, and text files that were converted, are not read.

    Raises:
        DataError: a page is damaged; it names the file, the row group and the column.
    """
    columns = {"log": resolved.log_columns, **resolved.side_columns}
    files = [(f, columns[name]) for name, table in resolved.tables.items() for f in table.files if not f.converted]
    with ThreadPoolExecutor(_THREADS) as pool:
        sound = pool.map(lambda pair: _is_sound(*pair), files)
        for (file, used), good in zip(files, sound, strict=True):
            if not good and (found := damage(file, used)) is not None:
                pool.shutdown(cancel_futures=True)
                raise found


def _is_sound(file: RawFile, columns: Sequence[str]) -> bool:
    kept = [column for column in columns if column not in file.partitions]
    try:
        source = opened(file.path)
        with (
            pa.OSFile(source) if isinstance(source, str) else source as stream,
            pq.ParquetFile(stream, page_checksum_verification=True) as parquet,
        ):
            if kept and _has_checksums(stream, parquet.metadata):
                for _ in parquet.iter_batches(_ROWS, columns=kept, use_threads=False):
                    pass
    except (OSError, ValueError, IndexError, pa.ArrowException):  # IndexError: a header that does not end
        return False
    return True


def _has_checksums(stream: pa.NativeFile, footer: pq.FileMetaData) -> bool:
    """Return whether the first page of a file has one: field 4 of its header, after type, size and compressed size."""
    groups = map(footer.row_group, range(footer.num_row_groups))
    first = next((group for group in groups if group.num_rows), None)  # one without rows may lack pages
    if first is None:
        return False
    column = first.column(0)
    start = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
    stream.seek(start)
    header: bytes = stream.read(_HEADER_BYTES)
    at = 0
    for _ in range(3):
        if header[at] != _INT_FIELD:
            return False
        at += 1
        while header[at] & 0x80:  # a varint goes on
            at += 1
        at += 1
    return header[at] == _INT_FIELD
