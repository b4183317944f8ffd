"""Raw files in object stores, through the one door to them (`ple_rec.storage`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ple_rec.storage import Location, Remote, is_address
from ple_rec.storage.arrow import at_store, open_ranges
from ple_rec.storage.store import Object, object_at

_CHUNK = 1 << 22


def identity(address: str, found: Object) -> str:
    """Return the hex digest of what tells an object's content: its tag and size, or all of it where it has no tag.

    Raises:
        FileNotFoundError: It is not there.
        StoreError: The store cannot be read.
    """
    if found.tag is not None:
        return hashlib.sha256(f"{found.tag.encode()!r} {found.size}".encode()).hexdigest()
    digest = hashlib.sha256()
    with Remote(address).open() as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def identity_now(address: str) -> str:
    """Return the identity that an object has now.

    Raises:
        FileNotFoundError, StoreError: As of `identity`.
    """
    return identity(address, object_at(Remote(address)))


def opened(path: str) -> str | pa.NativeFile:
    """Return what pyarrow opens to read a file by ranges: a path of this machine, or an object that is open.

    Raises:
        OSError: The object is not there.
        StoreError: The store cannot be read.
    """
    return open_ranges(Remote(path)) if is_address(path) else path


def _place(path: str) -> Location:
    return Remote(path) if is_address(path) else Path(path)


@contextmanager
def open_raw_parquet(path: str, **options: Any) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, local or in a store, which is read by ranges.

    Args:
        path: Path or address.
        options: Options of `pyarrow.parquet.ParquetFile`.

    Raises:
        OSError, pyarrow.ArrowException: It is not there, or is no Parquet file.
        StoreError: The store cannot be read.
    """
    with ExitStack() as stack:
        stack.enter_context(at_store(_place(path)))
        source = opened(path)
        if not isinstance(source, str):  # pyarrow closes what it has opened itself
            stack.enter_context(source)
        yield stack.enter_context(pq.ParquetFile(source, **options))
