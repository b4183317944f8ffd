"""Objects as files of pyarrow, which reads Parquet by ranges, several at once and without the interpreter's lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ple_rec.storage.client import arrow_client
from ple_rec.storage.door import StoreError, request
from ple_rec.storage.location import S3, Location, Remote


def s3_key(address: str) -> str:
    """Return `bucket/key` of `s3://bucket/key`, as pyarrow names it."""
    return address.removeprefix(S3).strip("/")


def open_ranges(file: Location) -> pa.NativeFile:
    """Open a file for reading by ranges; an object by pyarrow's own client where it has one, else through its handler.

    Raises:
        OSError: It is not there or no regular file.
        StoreError: The store cannot be read.
    """
    if isinstance(file, Path):
        if file.exists() and not file.is_file():  # to open a FIFO is to wait for a writer
            raise OSError("is no regular file")
        return pa.OSFile(str(file))
    if file.address.startswith(S3):
        return request(file.address, lambda: arrow_client().open_input_file(s3_key(file.address)))
    return pa.PythonFile(file.open(), mode="r")


@contextmanager
def open_parquet(file: Location, footer: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, whose pages are held to their checksums when they are read.

    A file of this machine is mapped into memory. Of an object, the columns that are read of a row group come in as few
    requests as their places in it allow.

    Args:
        file: File to open.
        footer: Its footer, which is then not read.

    Raises:
        OSError, StoreError: As of `open_ranges`. In the block, OSError, ValueError and ArrowException mean a damaged
            file, and StoreError a store that cannot be read.
    """
    if isinstance(file, Path):
        with pq.ParquetFile(file, metadata=footer, memory_map=True, page_checksum_verification=True) as parquet:
            yield parquet
        return
    with at_store(file), open_ranges(file) as ranges:
        yield pq.ParquetFile(ranges, metadata=footer, pre_buffer=True, page_checksum_verification=True)


@contextmanager
def at_store(file: Location) -> Iterator[None]:
    """Let errors of pyarrow in the block that are not about the content of an object be a StoreError.

    pyarrow raises the same type for a store that fails as for a damaged file; the text of the error tells them apart.
    """
    try:
        yield
    except OSError as error:
        if isinstance(file, Remote) and ("AWS Error" in str(error) or "curlCode" in str(error)):
            raise StoreError.of(file.address, error) from error
        raise
