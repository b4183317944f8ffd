"""Operations on files of this machine and objects of stores alike: list, measure, write atomically, remove."""

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
_PIECE = 8 << 20  # Bytes of one read.
_AT_ONCE = 16  # Concurrent requests to a store.


def names_in(directory: Location) -> list[str]:
    """Return the sorted names of the entries of a directory or a prefix; none if it does not exist.

    Raises:
        OSError: The directory cannot be read.
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
    """Return a text that changes when the file is written: its times on a disk, a digest of its content in a store.

    Raises:
        OSError: The file does not exist, or cannot be read.
    """
    if isinstance(file, Path):
        status = file.stat()
        return f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def sizes_in(directory: Location) -> dict[str, int]:
    """Return the sizes in bytes of the files directly in a directory or below a prefix, by name.

    Raises:
        OSError: The directory cannot be read.
        StoreError: The store cannot be read.
    """
    if isinstance(directory, Path):
        return {path.name: path.stat().st_size for path in directory.iterdir() if path.is_file()}
    from ple_rec.storage.store import objects_at

    return {item.name: item.size for item in objects_at(directory) if item.name and "/" not in item.name}


@contextmanager
def atomic_write(file: Location, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file for a block that writes it. If the block raises, the file stays as it was.

    Args:
        file: File to write. On a disk it is synced before it takes its place.
        mode: `wb`, or `xb` to create a file; if several writers create it at once, one succeeds.

    Raises:
        OSError: The file cannot be written, or exists already.
    """
    if isinstance(file, Remote):
        with _upload(file, mode) as stream:
            yield stream
        return
    exclusive = mode == "xb"
    partial = file if exclusive else file.with_name(file.name + ".partial")
    if not exclusive:
        partial.unlink(missing_ok=True)  # Writing would follow a link.
    with partial.open(mode) as stream:
        try:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            if not exclusive:
                partial.replace(file)
        except BaseException:  # On a full disk, the next attempt must not find half of the file.
            partial.unlink()
            raise


@contextmanager
def _upload(file: Remote, mode: str) -> Iterator[IO[Any]]:
    stream: Any = file.open(mode)
    try:
        yield stream
    except BaseException:  # Closing the stream would make an object of the bytes written so far.
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
    """Move a complete file of this machine to its place, by a rename on a disk or a copy into a store.

    Raises:
        OSError: The target cannot be written.
    """
    if isinstance(target, Path):
        file.replace(target)
        return
    with file.open("rb") as source, atomic_write(target) as out:
        shutil.copyfileobj(source, out, _PIECE)
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
    """Create a file of a text and a line feed; if several writers create it at once, one succeeds.

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
    """Write a file atomically if a check passes; an object only if nobody has changed it since the check.

    Args:
        file: File to write.
        content: Whole content of the file.
        check: Function that raises if this process may not write there, such as `Lease.check`.

    Raises:
        OSError: The file cannot be written.
        StoreError: The store cannot be written, or another process has changed the object since the check.
    """
    if isinstance(file, Path):
        check()
        write_bytes(file, content)
        return
    from ple_rec.storage.store import changed, put, tag_or_none

    tag = tag_or_none(file)
    check()
    try:
        put(file, content, tag=tag, create=tag is None)
    except FileExistsError as error:
        raise changed(file) from error


def unlink_checked(file: Location, check: Callable[[], None]) -> None:
    """Remove a file, if it exists, if a check passes; raises as `write_checked` does."""
    if isinstance(file, Path):
        check()
        file.unlink(missing_ok=True)
        return
    from ple_rec.storage.store import delete, tag_or_none

    if (tag := tag_or_none(file)) is not None:
        check()
        delete(file, tag)


def make_directory(where: Location) -> None:
    """Make a directory and its parents; do nothing in an object store, which has no directories."""
    if isinstance(where, Path):
        where.mkdir(parents=True, exist_ok=True)


def remove_tree(where: Location) -> None:
    """Remove a directory, or all objects below a prefix, if it exists.

    Raises:
        OSError: The directory cannot be removed.
        StoreError: The store cannot be read, or an object cannot be removed.
    """
    if isinstance(where, Path):
        with suppress(FileNotFoundError):
            shutil.rmtree(where)
        return

    from ple_rec.storage.store import objects_at

    at_once(lambda name: (where / name).unlink(missing_ok=True), [item.name for item in objects_at(where)])


def free_bytes(where: Location) -> int | None:
    """Return the free bytes of a directory's file system; None for an object store, or if they are unknown."""
    try:
        return shutil.disk_usage(where).free if isinstance(where, Path) else None
    except OSError:
        return None


def at_once(call: Callable[[_T], _U], arguments: Iterable[_T], threads: int = _AT_ONCE) -> list[_U]:
    """Return the results of concurrent calls that wait for a store, in the order of the arguments.

    Args:
        call: Function to call.
        arguments: Argument of each call.
        threads: Most calls at the same time; few if each holds much memory.
    """
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, arguments))
