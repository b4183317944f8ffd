"""Objects as files of pyarrow, which reads Parquet by ranges, several at once and without the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ple_rec.storage.location import Location, translate_errors

S3 = "s3://"
_SECONDS = 20.0  # to connect, and between two bytes of an answer


def s3_filesystem() -> fs.S3FileSystem:
    """Return the client of the store that the environment names.

    `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_PROFILE` and the like mean
    what they mean to every AWS client; `AWS_ENDPOINT_URL` names a store other than Amazon's.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint and region is None:
        region = "us-east-1"  # what stores other than Amazon's answer to
    return _client(endpoint or None, region)


@lru_cache(maxsize=4)
def _client(endpoint: str | None, region: str | None) -> fs.S3FileSystem:
    scheme, _, host = (endpoint or "").rpartition("://")
    return fs.S3FileSystem(
        endpoint_override=host or None,
        scheme=scheme or None,
        region=region,
        connect_timeout=_SECONDS,
        request_timeout=_SECONDS,
    )


def s3_key(address: str) -> str:
    """Return `bucket/key` of `s3://bucket/key`, as pyarrow names it."""
    return address.removeprefix(S3).strip("/")


def open_ranges(file: Location) -> pa.NativeFile:
    """Open a file for reading by ranges; an object by pyarrow's own client where it has one, else through its handler.

    Raises:
        OSError: It is not there or no regular file, or the store cannot be reached.
    """
    if isinstance(file, Path):
        if file.exists() and not file.is_file():  # to open a FIFO is to wait for a writer
            raise OSError("is no regular file")
        return pa.OSFile(str(file))
    with translate_errors():
        if file.address.startswith(S3):
            return s3_filesystem().open_input_file(s3_key(file.address))
        return pa.PythonFile(file.open(), mode="r")


def is_of_store(error: BaseException) -> bool:
    """Return whether what reading an object raises says that the store failed, rather than what the object holds."""
    return "AWS Error" in str(error)  # pyarrow has no type for it


@contextmanager
def open_parquet(file: Location, footer: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, whose pages are held to their checksums when they are read.

    A file of this machine is mapped into memory. Of an object, the columns that are read of a row group come in as few
    requests as their places in it allow.

    Args:
        file: File to open.
        footer: Its footer, which is then not read.

    Raises:
        OSError: As of `open_ranges`; the block raises it too, and ValueError and ArrowException, where the file is
            damaged.
    """
    if isinstance(file, Path):
        with pq.ParquetFile(file, metadata=footer, memory_map=True, page_checksum_verification=True) as parquet:
            yield parquet
        return
    with translate_errors(), open_ranges(file) as ranges:
        yield pq.ParquetFile(ranges, metadata=footer, pre_buffer=True, page_checksum_verification=True)
