"""Raw files in object stores: `s3://bucket/key` through pyarrow's client."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import fs

from ple_rec.errors import UserError
from ple_rec.storage.arrow import S3, s3_filesystem, s3_key

SCHEME, filesystem, key_of = S3, s3_filesystem, s3_key


def is_remote(path: str) -> bool:
    """Whether a path is an address in an object store."""
    return path.startswith(SCHEME)


@dataclass(frozen=True)
class RemoteFile:
    """An object: its key below a prefix, and its size in bytes."""

    relative: str
    size: int


def list_files(address: str) -> list[RemoteFile]:
    """The objects at an address: itself, with an empty `relative`, or all below it, in any order.

    Raises:
        UserError: The store does not answer, or does not let us in.
    """
    key = key_of(address)
    try:
        store = filesystem()
        found = [info for info in [store.get_file_info(key)] if info.type == fs.FileType.File]
        if found:
            return [RemoteFile("", found[0].size)]
        below = store.get_file_info(fs.FileSelector(key, recursive=True, allow_not_found=True))
    except (OSError, pa.ArrowException) as error:
        raise unreachable(address, error) from error
    files = [info for info in below if info.type == fs.FileType.File]
    return [RemoteFile(info.path[len(key) + 1 :], info.size) for info in files]


def identity(address: str, size: int) -> str:
    """Return the hex digest of what the store says about an object: its ETag, which changes with the content, and size.

    Raises:
        OSError, pyarrow.ArrowException: The store does not answer, or has no such object.
    """
    with filesystem().open_input_stream(key_of(address)) as stream:
        said = {name.lower(): value for name, value in (stream.metadata() or {}).items()}
    tag = said.get(b"etag") or said.get("etag") or said.get(b"last-modified") or said.get("last-modified")
    return hashlib.sha256(f"{tag!r} {size}".encode()).hexdigest()


def unreachable(address: str, error: Exception) -> UserError:
    """The error of a store that does not answer or does not let us in."""
    return UserError(
        address,
        f"the object store cannot be read ({' '.join(str(error).split())[:300]})",
        "credentials and endpoint come from the environment",
        "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, and the bucket's name",
    )
