"""Access to raw files in object stores: their identities, and reading them as Parquet.

A raw file is a Parquet or CSV file of the user from which datasets are prepared. Its identity is a digest that changes
when the file does. All access to an object store goes through `ple_rec.storage`. `open_raw_parquet` takes local files,
too, so that its callers need not tell the two apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ple_rec.storage import Location, Remote, is_address
from ple_rec.storage.arrow import open_ranges, translate_arrow_errors
from ple_rec.storage.store import StoredObject, object_at

_CHUNK = 1 << 22  # Bytes that are read at a time.


def identity(address: str, entry: StoredObject) -> str:
    """Return the identity of an object as a hex digest.

    The digest covers the size of the object and the tag that the store gives it, such as its ETag. If the store gives
    no tag, this function reads the whole content and digests it.

    Args:
        address: Address of the object.
        entry: Entry of the object in a listing of the store, with its tag and size.

    Raises:
        FileNotFoundError: The content has to be read, and the object no longer exists.
        StoreError: The content has to be read, and the store cannot be read.
    """
    if entry.tag is not None:
        return hashlib.sha256(f"{entry.tag.encode()!r} {entry.size}".encode()).hexdigest()
    digest = hashlib.sha256()
    with Remote(address).open() as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def identity_now(address: str) -> str:
    """Look up an object in its store, and return its current identity.

    Raises:
        FileNotFoundError: The object does not exist.
        StoreError: The store cannot be read.
    """
    return identity(address, object_at(Remote(address)))


def open_source(path: str) -> str | pa.NativeFile:
    """Return a source from which pyarrow can read ranges of bytes: the path of a local file, or an opened object.

    Args:
        path: Path of a local file, or address of an object. The caller closes an opened object.

    Raises:
        OSError: The object does not exist.
        StoreError: The store cannot be read.
    """
    return open_ranges(Remote(path)) if is_address(path) else path


def _location(path: str) -> Location:
    """Return the location that a path or an address stands for."""
    return Remote(path) if is_address(path) else Path(path)


@contextmanager
def open_raw_parquet(path: str, **options: Any) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, local or in an object store, and close it at the end of the block.

    Only those ranges of bytes of an object are fetched that the caller reads.

    Args:
        path: Path of a local file, or address of an object.
        options: Options of `pyarrow.parquet.ParquetFile`.

    Raises:
        OSError, pyarrow.ArrowException: The file does not exist, or is no Parquet file.
        StoreError: The store cannot be read, now or in the block.
    """
    with ExitStack() as stack:
        stack.enter_context(translate_arrow_errors(_location(path)))
        source = open_source(path)
        # pyarrow closes only the files that it has opened from a path, so an open object is closed here.
        if not isinstance(source, str):
            stack.enter_context(source)
        yield stack.enter_context(pq.ParquetFile(source, **options))
