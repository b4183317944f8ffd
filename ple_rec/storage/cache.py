"""Copies on this machine of files that lie in a store and must be files here, such as those that are memory-mapped."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

from ple_rec.errors import DataError
from ple_rec.locks import take_lock
from ple_rec.storage.files import atomic_write, modified_at, size_of
from ple_rec.storage.location import Location, Remote, explain_errors

CACHE = "PLE_REC_CACHE"  # environment: folder of the cache
_PIECE = 8 << 20  # bytes that are copied at a time


def cache_folder() -> Path:
    """Return the folder of what is kept on this machine and can be made again.

    It is `$PLE_REC_CACHE`, else `$XDG_CACHE_HOME/ple_rec`, else `~/.cache/ple_rec`.
    """
    if own := os.environ.get(CACHE):
        return Path(own)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "ple_rec"


def local_copy(file: Location, digest: str | None = None) -> Path:
    """Return a file of this machine with the content of a file: itself, or a copy of an object, made at the first call.

    Copies are kept by their content, so one that is there is never stale. Of several processes that need one at once,
    one makes it.

    Args:
        file: File to copy.
        digest: Hexadecimal SHA-256 of its content; where it is not known, address, size and time of writing tell
            objects apart.

    Raises:
        UserError: The object cannot be read, or the copy cannot be written.
        DataError: The object has another content than the digest says.
    """
    if isinstance(file, Path):
        return file
    folder = cache_folder()
    with explain_errors(file, "copied", f"it is kept in {folder}, or in the folder that PLE_REC_CACHE names"):
        copy = folder / "files" / (digest or _name_of_version(file)) / file.name
        if copy.is_file():
            return copy
        copy.parent.mkdir(parents=True, exist_ok=True)
        with (copy.parent / "lock").open("w") as lock:
            take_lock(lock, wait=math.inf)
            if not copy.is_file():
                _copy(file, copy, digest)
        return copy


def _name_of_version(file: Remote) -> str:
    return hashlib.sha256(f"{file} {size_of(file)} {modified_at(file)}".encode()).hexdigest()


def _copy(file: Remote, copy: Path, digest: str | None) -> None:
    content = hashlib.sha256()
    with file.open() as source, atomic_write(copy) as out:
        while piece := source.read(_PIECE):
            content.update(piece)
            out.write(piece)
        if digest is not None and content.hexdigest() != digest:
            raise DataError(
                str(file),
                f"SHA-256 {content.hexdigest()[:16]}...",
                f"it was written with {digest[:16]}...",
                "write it again from where it came",
            )
