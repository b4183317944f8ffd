"""Raw files in object stores, through the one door to them (`ple_rec.storage`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ple_rec.errors import UserError
from ple_rec.storage import Remote, is_address, short
from ple_rec.storage.arrow import open_ranges
from ple_rec.storage.listing import Object, object_at, objects_at

_CHUNK = 1 << 22


def list_files(address: str) -> list[Object]:
    """Return the object at an address, or all below it, in any order.

    Raises:
        UserError: The store does not answer, or does not let us in.
    """
    try:
        return objects_at(Remote(address.rstrip("/")))
    except OSError as error:
        raise unreachable(address, error) from error


def identity(address: str, found: Object) -> str:
    """Return the hex digest of what tells an object's content: its tag and size, or all of it where it has no tag.

    Raises:
        UserError: The store does not answer, or has no such object.
    """
    if found.tag is not None:
        return hashlib.sha256(f"{found.tag.encode()!r} {found.size}".encode()).hexdigest()
    digest = hashlib.sha256()
    try:
        with Remote(address).open() as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()
    except OSError as error:
        raise unreachable(address, error) from error


def identity_now(address: str) -> str:
    """Return the identity that an object has now.

    Raises:
        OSError: The store does not answer, or has no such object.
    """
    return identity(address, object_at(Remote(address)))


def opened(path: str) -> str | pa.NativeFile:
    """Return what pyarrow opens to read a file by ranges: a path of this machine, or an object that is open.

    Raises:
        OSError: The object is not there, or cannot be reached.
    """
    return open_ranges(Remote(path)) if is_address(path) else path


@contextmanager
def open_raw_parquet(path: str, **options: Any) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, local or in a store, which is read by ranges.

    Args:
        path: Path or address.
        options: Options of `pyarrow.parquet.ParquetFile`.

    Raises:
        OSError, pyarrow.ArrowException: It is not there, cannot be reached, or is no Parquet file.
    """
    with ExitStack() as stack:
        source = opened(path)
        if not isinstance(source, str):  # pyarrow closes what it has opened itself
            stack.enter_context(source)
        yield stack.enter_context(pq.ParquetFile(source, **options))


def unreachable(address: str, error: Exception) -> UserError:
    """Return the error of a store that does not answer or does not let us in."""
    return UserError(
        address,
        f"the object store cannot be read ({short(error)})",
        "credentials and endpoint come from the environment",
        "check them (of S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL), and the bucket's "
        "name",
    )
