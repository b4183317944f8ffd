"""Operations on files that are the same for this machine and for object stores: list, measure, write, remove.

Writes that replace a file are atomic: a reader sees the old content or the new one. There is one exception: on a disk,
`create_text` and `atomic_write(file, "xb")` write under the name of the file from the start. This keeps other writers
away, but a reader may see an incomplete file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TypeVar

from ple_rec.storage.location import Location, Remote
from ple_rec.storage.store_errors import StoreError, request

_T = TypeVar("_T")
_U = TypeVar("_U")
_CHUNK_BYTES = 8 << 20  # Number of bytes that are read at a time.
_CONCURRENT_REQUESTS = 16


def names_in(directory: Location) -> list[str]:
    """Return the sorted names of the entries of a directory or a prefix; empty if it does not exist or is a file.

    In a store, names that no file on a disk could have, such as `..`, are left out.

    Raises:
        OSError: The directory cannot be read.
        StoreError: The store cannot be read.
    """
    try:
        if isinstance(directory, Path):
            return sorted(path.name for path in directory.iterdir())
        from ple_rec.storage.handler import manager

        paths = request(directory.address, lambda: manager().ls(directory.address))
    except (FileNotFoundError, NotADirectoryError):
        return []
    from ple_rec.storage.store import is_safe

    names = (name.rstrip("/").rpartition("/")[2] for name in paths)
    return sorted(name for name in names if is_safe(name))


def size_of(file: Location) -> int:
    """Return the size of a file in bytes.

    Raises:
        OSError: The file does not exist.
        StoreError: The store cannot be read.
    """
    if isinstance(file, Path):
        return file.stat().st_size
    from ple_rec.storage.store import object_at

    return object_at(file).size


def modified_at(file: Location) -> datetime | None:
    """Return the time of the last write; None if the store does not know it. Raises as `size_of` does."""
    if isinstance(file, Path):
        return datetime.fromtimestamp(file.stat().st_mtime, tz=UTC)
    from ple_rec.storage.store import object_at

    return object_at(file).modified


def stamp_of(file: Location) -> str:
    """Return a text that changes when a file is written: on a disk its times, in a store a digest of its content.

    Raises:
        OSError: The file does not exist, or cannot be read.
        StoreError: The store cannot be read.
    """
    if isinstance(file, Path):
        status = file.stat()
        return f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def sizes_in(directory: Location) -> dict[str, int]:
    """Return the sizes in bytes of the files in a directory or prefix, by name; those in folders below it are left out.

    Raises:
        OSError: The directory does not exist or cannot be read; a prefix without objects is empty instead.
        StoreError: The store cannot be read.
    """
    if isinstance(directory, Path):
        return {path.name: path.stat().st_size for path in directory.iterdir() if path.is_file()}
    from ple_rec.storage.store import objects_at

    return {item.name: item.size for item in objects_at(directory) if item.name and "/" not in item.name}


@contextmanager
def atomic_write(file: Location, mode: str = "wb") -> Iterator[IO[Any]]:
    """Yield a stream for the new content of a file; if the block raises an error, the file stays as it was.

    Args:
        file: File to write. On a disk, its new content is synced before it replaces the old one.
        mode: `wb`, or `xb` to create a file; if several writers create it at once, one succeeds.

    Raises:
        OSError: The file cannot be written, or the mode is `xb` and it exists.
        StoreError: The store cannot be written.
    """
    if isinstance(file, Remote):
        with _upload(file, mode) as stream:
            yield stream
        return
    exclusive = mode == "xb"
    written_file = file if exclusive else file.with_name(file.name + ".partial")
    if not exclusive:
        written_file.unlink(missing_ok=True)  # Writing would follow a symbolic link of that name.
    with written_file.open(mode) as stream:
        try:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            if not exclusive:
                written_file.replace(file)
        except BaseException:  # If the disk is full, half of the file must not remain.
            written_file.unlink()
            raise


@contextmanager
def _upload(file: Remote, mode: str) -> Iterator[IO[Any]]:
    """Yield a stream to a new object; if the block raises, nothing is stored."""
    stream: Any = file.open(mode)
    try:
        yield stream
    except BaseException:
        # Closing the stream would store the bytes written so far as an object. So the stream is not closed here, and if
        # the client can discard the bytes, it is marked as closed, so that its destructor does not close it either.
        if hasattr(stream.stream, "discard"):
            stream.discard()
            stream.stream.closed = True
        raise
    try:
        stream.close()
    except StoreError as error:
        if mode == "xb" and error.kind == "changed":
            raise FileExistsError(errno.EEXIST, "another process has written it", str(file)) from error
        raise


def put_file(file: Path, target: Location) -> None:
    """Move a complete file of this machine to a path on the same disk, by a rename, or to a store, by a copy.

    Raises:
        OSError: The target cannot be written.
        StoreError: The store cannot be written.
    """
    if isinstance(target, Path):
        file.replace(target)
        return
    with file.open("rb") as source, atomic_write(target) as out:
        shutil.copyfileobj(source, out, _CHUNK_BYTES)
    file.unlink()


def write_bytes(file: Location, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        OSError: The file cannot be written.
        StoreError: The store cannot be written.
    """
    with atomic_write(file) as stream:
        stream.write(content)


def write_text(file: Location, text: str) -> None:
    """Write a text and a line feed atomically; raises as `write_bytes` does."""
    write_bytes(file, f"{text}\n".encode())


def create_text(file: Location, text: str) -> None:
    """Create a file with a text and a line feed; if several writers create it at once, one succeeds.

    Raises:
        OSError: The file exists, or cannot be written.
        StoreError: The store cannot be written.
    """
    content = f"{text}\n".encode()
    if isinstance(file, Path):
        with atomic_write(file, "xb") as stream:
            stream.write(content)
        return
    from ple_rec.storage.store import put

    put(file, content, create=True)


def write_checked(file: Location, content: bytes, check: Callable[[], None]) -> None:
    """Write a file atomically if a check passes; write an object only if nobody has changed it since the check.

    Args:
        file: File to write.
        content: Content of the file.
        check: Function that raises if this process may not write there, such as `Lease.check`.

    Raises:
        OSError: The file cannot be written.
        StoreError: The store cannot be written, or another process has changed the object since the check.
    """
    if isinstance(file, Path):
        check()
        write_bytes(file, content)
        return
    from ple_rec.storage.store import changed_error, put, tag_or_none

    tag = tag_or_none(file)
    check()
    try:
        put(file, content, tag=tag, create=tag is None)
    except FileExistsError as error:
        raise changed_error(file) from error


def unlink_checked(file: Location, check: Callable[[], None]) -> None:
    """Remove a file if it exists and a check passes; raises as `write_checked` does."""
    if isinstance(file, Path):
        check()
        file.unlink(missing_ok=True)
        return
    from ple_rec.storage.store import delete, tag_or_none

    if (tag := tag_or_none(file)) is not None:
        check()
        delete(file, tag)


def make_directory(directory: Location) -> None:
    """Make a directory and its parents; do nothing in an object store, which has no directories."""
    if isinstance(directory, Path):
        directory.mkdir(parents=True, exist_ok=True)


def remove_tree(directory: Location) -> None:
    """Remove a directory, or all objects below a prefix, if it exists.

    Raises:
        OSError: The directory cannot be removed.
        StoreError: The store cannot be read, or an object cannot be removed.
    """
    if isinstance(directory, Path):
        with suppress(FileNotFoundError):
            shutil.rmtree(directory)
        return

    from ple_rec.storage.store import objects_at

    map_concurrently(
        lambda name: (directory / name).unlink(missing_ok=True), [item.name for item in objects_at(directory)]
    )


def free_bytes(directory: Location) -> int | None:
    """Return the free bytes of a directory's file system; None for an object store, or if they are unknown."""
    try:
        return shutil.disk_usage(directory).free if isinstance(directory, Path) else None
    except OSError:
        return None


def map_concurrently(
    call: Callable[[_T], _U], arguments: Iterable[_T], threads: int = _CONCURRENT_REQUESTS
) -> list[_U]:
    """Call a function in threads, and return the results in the order of the arguments.

    Args:
        call: Function to call.
        arguments: Argument of each call.
        threads: Largest number of calls at the same time.
    """
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, arguments))
