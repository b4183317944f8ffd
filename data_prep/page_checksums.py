"""Verification of the page checksums of raw Parquet files, for an engine that does not verify them itself.

Spark, parquet-mr and this package write a CRC-32 into the header of every page; many other writers write none.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.diagnose import find_damage
from data_prep.sources.files import RawFile
from data_prep.sources.remote import open_source
from data_prep.transforms.resolve import Resolved

_THREADS = 2
_BATCH_ROWS = 65_536  # Number of rows that are decoded at a time.
_HEADER_BYTES = 32  # Upper bound of the size of the first four fields of a page header.
_INT_FIELD = 0x15  # In Thrift's compact protocol, the header of an i32 whose number is one more than the last field's.


def check_pages(resolved: Resolved) -> None:
    """Read the raw columns that the configuration uses, and refuse a page that is damaged or differs from its checksum.

    Files whose first page has no checksum are not read, nor are Parquet files that were just converted from text.

    Raises:
        DataError: A page is damaged; the message names the file, the row group and the column.
    """
    columns = {"log": resolved.log_columns, **resolved.side_columns}
    files = [(f, columns[name]) for name, table in resolved.tables.items() for f in table.files if not f.converted]
    with ThreadPoolExecutor(_THREADS) as pool:
        results = pool.map(lambda pair: _is_sound(*pair), files)
        for (file, columns_read), is_sound in zip(files, results, strict=True):
            if not is_sound and (error := find_damage(file, columns_read)) is not None:
                pool.shutdown(cancel_futures=True)
                raise error


def _is_sound(file: RawFile, columns: Sequence[str]) -> bool:
    """Return whether the pages of columns can be read and match their checksums; True for a file without checksums."""
    stored = [column for column in columns if column not in file.partitions]
    try:
        source = open_source(file.path)
        with (
            pa.OSFile(source) if isinstance(source, str) else source as stream,
            pq.ParquetFile(stream, page_checksum_verification=True) as parquet,
        ):
            if stored and _has_checksums(stream, parquet.metadata):
                for _ in parquet.iter_batches(_BATCH_ROWS, columns=stored, use_threads=False):
                    pass
    except (OSError, ValueError, IndexError, pa.ArrowException):  # A header without an end gives an IndexError.
        return False
    return True


def _has_checksums(stream: pa.NativeFile, footer: pq.FileMetaData) -> bool:
    """Return whether the first page of a file has a checksum.

    This is field 4 of the page's header, an optional i32 after type, size and compressed size, which are i32, too.
    """
    groups = map(footer.row_group, range(footer.num_row_groups))
    first = next((group for group in groups if group.num_rows), None)  # A row group without rows may lack pages.
    if first is None:
        return False
    column = first.column(0)
    start = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
    stream.seek(start)
    header: bytes = stream.read(_HEADER_BYTES)
    offset = 0
    for _ in range(3):
        if header[offset] != _INT_FIELD:
            return False
        offset += 1
        while header[offset] & 0x80:  # The varint continues in the next byte.
            offset += 1
        offset += 1
    return header[offset] == _INT_FIELD
