"""Objects as files of pyarrow, which reads Parquet by ranges, several at once and without the interpreter's lock."""

from __future__ import annotations

import os
from functools import lru_cache

import pyarrow as pa
from pyarrow import fs

from ple_rec.storage.location import Remote, translate_errors

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


def open_ranges(file: Remote) -> pa.NativeFile:
    """Open an object for reading by ranges: by pyarrow's own client where it has one, else through its handler.

    Raises:
        OSError: It is not there, or the store cannot be reached.
    """
    with translate_errors():
        if file.address.startswith(S3):
            return s3_filesystem().open_input_file(s3_key(file.address))
        return pa.PythonFile(file.open(), mode="r")
