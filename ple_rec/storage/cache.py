"""Copies on this machine of objects that a reader needs as files, for example to map them into memory."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

from ple_rec.errors import DataError, UserError
from ple_rec.storage.files import atomic_write
from ple_rec.storage.location import Location, Remote, explain_errors
from ple_rec.storage.locks import take_lock

CACHE_VARIABLE = "PLE_REC_CACHE"  # Environment variable with the folder for copies.
_CHUNK_BYTES = 8 << 20  # Number of bytes that are read at a time.


def cache_folder() -> Path:
    """Return the folder for files that can be fetched or made again.

    It is `$PLE_REC_CACHE`, else `$XDG_CACHE_HOME/ple_rec`, else `~/.cache/ple_rec`.

    Raises:
        UserError: Neither variable is set, and the home directory is unknown.
    """
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder)
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / "ple_rec"
    try:
        return Path.home() / ".cache" / "ple_rec"
    except RuntimeError as error:
        rule = "copies of files in stores are kept in a folder of this machine"
        raise UserError(
            CACHE_VARIABLE, "is not set, and neither is HOME", rule, f"set {CACHE_VARIABLE} to a folder"
        ) from error


def local_copy(file: Location, digest: str | None = None) -> Path:
    """Return a path with the content of a file: a file of this machine itself, unverified, or a copy of an object.

    An object is fetched at the first call. The path of the copy depends on the content, so a copy is never stale. If
    the digest is known, the copy is verified at each call, and fetched again if it is damaged. If several processes
    need a copy at the same time, one of them fetches it.

    Args:
        file: File to copy.
        digest: Hexadecimal SHA-256 of the content, which names the folder of the copy; None if it is not known. Then a
            hash of the address and of the tag of the object (such as its ETag) names it.

    Raises:
        UserError: The object cannot be read, or the copy cannot be written.
        DataError: The object has another content than the digest says.
    """
    if isinstance(file, Path):
        return file
    folder = cache_folder()
    from ple_rec.storage.store import tag_of

    with explain_errors(file):
        name = digest or hashlib.sha256(f"{file} {tag_of(file)}".encode()).hexdigest()
    copy = folder / "files" / name / file.name
    with explain_errors(
        folder, "written", f"copies of files in stores are kept there; {CACHE_VARIABLE} names another folder"
    ):
        if _is_valid_copy(copy, digest):
            return copy
        copy.parent.mkdir(parents=True, exist_ok=True)
        with (copy.parent / "lock").open("w", encoding="utf-8") as lock:
            take_lock(lock, wait=math.inf)
            if not _is_valid_copy(copy, digest):  # Another process may have fetched it while this one waited.
                download(file, copy, digest)
    return copy


def download(file: Remote, copy: Path, digest: str | None) -> None:
    """Copy an object to a file of this machine, which appears when it is complete.

    Args:
        file: Object to copy.
        copy: File to write.
        digest: Hexadecimal SHA-256 of its content; None if it is not known.

    Raises:
        UserError: The object does not exist.
        OSError: The copy cannot be written.
        StoreError: The object cannot be read.
        DataError: The object has another content than the digest says.
    """
    sha256 = hashlib.sha256()
    with explain_errors(file, "copied"):
        stream = file.open()
    with stream as source, atomic_write(copy) as out:
        while chunk := source.read(_CHUNK_BYTES):
            sha256.update(chunk)
            out.write(chunk)
        if digest is not None and sha256.hexdigest() != digest:
            raise DataError(
                str(file),
                f"SHA-256 {sha256.hexdigest()[:16]}...",
                f"the file that was written has {digest[:16]}...",
                "write the object again from its source",
            )


def _is_valid_copy(copy: Path, digest: str | None) -> bool:
    """Return True if a copy exists and, if the digest is known, has that digest."""
    if digest is None or not copy.is_file():
        return copy.is_file()
    with copy.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == digest
