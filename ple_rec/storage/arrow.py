"""Parquet files, local ones and those of object stores, opened by pyarrow.

pyarrow's own client of S3 reads several ranges of an object at once, without Python's global lock (the GIL).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ple_rec.storage.client import arrow_client
from ple_rec.storage.location import S3, Location, Remote
from ple_rec.storage.store_errors import StoreError, request


def s3_key(address: str) -> str:
    """Return `bucket/key` for `s3://bucket/key`, which is how pyarrow names the object."""
    return address.removeprefix(S3).strip("/")


def open_ranges(file: Location) -> pa.NativeFile:
    """Open a file for reading by ranges.

    pyarrow opens a local file, and an object of S3 by its own client. It reads any other object through `Remote.open`.

    Raises:
        OSError: The file does not exist, or is not a regular file.
        StoreError: The store cannot be read.
    """
    if isinstance(file, Path):
        if file.exists() and not file.is_file():  # Opening a FIFO would wait for a writer.
            raise OSError("is not a regular file")
        return pa.OSFile(str(file))
    if file.address.startswith(S3):
        return request(file.address, lambda: arrow_client().open_input_file(s3_key(file.address)))
    return pa.PythonFile(file.open(), mode="r")


@contextmanager
def open_parquet(file: Location, footer: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; each page that has a checksum is verified when it is read.

    A file of this machine is mapped into memory. For an object, columns of a row group that lie next to each other are
    fetched in one request.

    Args:
        file: File to open.
        footer: Footer of the file; None to read it.

    Raises:
        OSError, ValueError, ArrowException: The file is missing or damaged; reads in the block raise these, too.
        StoreError: The store cannot be read, when the file is opened or in the block.
    """
    if isinstance(file, Path):
        with pq.ParquetFile(file, metadata=footer, memory_map=True, page_checksum_verification=True) as parquet:
            yield parquet
        return
    with translate_arrow_errors(file), open_ranges(file) as ranges:
        yield pq.ParquetFile(ranges, metadata=footer, pre_buffer=True, page_checksum_verification=True)


@contextmanager
def translate_arrow_errors(file: Location) -> Iterator[None]:
    """Translate an OSError that the store has caused in the block into a StoreError.

    pyarrow raises OSError for a store that fails and for a damaged file alike; the text of the error tells them apart.
    Other errors, and those about files of this machine, are raised unchanged.
    """
    try:
        yield
    except OSError as error:
        if isinstance(file, Remote) and ("AWS Error" in str(error) or "curlCode" in str(error)):
            raise StoreError.of(file.address, error) from error
        raise
