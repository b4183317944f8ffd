"""What can be done with files at either kind of place: listed, measured, written whole, removed."""

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

from ple_rec.storage.door import StoreError, request
from ple_rec.storage.location import Location, Remote

_T = TypeVar("_T")
_U = TypeVar("_U")
_PIECE = 8 << 20  # bytes that are copied at a time
_AT_ONCE = 16  # requests to a store that wait at the same time


def names_in(directory: Location) -> list[str]:
    """Return the names of what lies directly in a directory or below a prefix, sorted; nothing where it is not there.

    Raises:
        OSError: It cannot be read.
    """
    try:
        if isinstance(directory, Path):
            return sorted(path.name for path in directory.iterdir())
        from ple_rec.storage.handler import manager

        found = request(directory.address, lambda: manager().ls(directory.address))
    except (FileNotFoundError, NotADirectoryError):
        return []
    from ple_rec.storage.store import is_safe

    names = (name.rstrip("/").rpartition("/")[2] for name in found)
    return sorted(name for name in names if is_safe(name))


def size_of(file: Location) -> int:
    """Return the bytes of a file.

    Raises:
        OSError: It is not there.
        StoreError: The store cannot be read.
    """
    if isinstance(file, Path):
        return file.stat().st_size
    from ple_rec.storage.store import object_at

    return object_at(file).size


def modified_at(file: Location) -> datetime | None:
    """Return when a file was last written; None where a store does not tell. Raises as `size_of` does."""
    if isinstance(file, Path):
        return datetime.fromtimestamp(file.stat().st_mtime, tz=UTC)
    from ple_rec.storage.store import object_at

    return object_at(file).modified


def stamp_of(file: Location) -> str:
    """Return what is another text once a file was written anew: of its times on a disk, of its content in a store.

    Raises:
        OSError: It is not there, or cannot be reached.
    """
    if isinstance(file, Path):
        status = file.stat()
        return f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def sizes_in(directory: Location) -> dict[str, int]:
    """Return the bytes of the files that lie directly in a directory or below a prefix, by name.

    Raises:
        OSError: It cannot be read.
        StoreError: The store cannot be read.
    """
    if isinstance(directory, Path):
        return {path.name: path.stat().st_size for path in directory.iterdir() if path.is_file()}
    from ple_rec.storage.store import objects_at

    return {found.name: found.size for found in objects_at(directory) if found.name and "/" not in found.name}


@contextmanager
def atomic_write(file: Location, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file for a block that writes it: it is there whole once the block ends well, and else stays as it was.

    Args:
        file: File to write. On a disk it is synced before it takes its place.
        mode: `wb`, or `xb` for a file that is not there yet: of several writers at once, one succeeds.

    Raises:
        OSError: It cannot be written, or is there already.
    """
    if isinstance(file, Remote):
        with _upload(file, mode) as stream:
            yield stream
        return
    exclusive = mode == "xb"
    partial = file if exclusive else file.with_name(file.name + ".partial")
    if not exclusive:
        partial.unlink(missing_ok=True)  # a link would lead the writing elsewhere
    with partial.open(mode) as stream:
        try:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            if not exclusive:
                partial.replace(file)
        except BaseException:  # such as a full disk: the next attempt must not find half of it
            partial.unlink()
            raise


@contextmanager
def _upload(file: Remote, mode: str) -> Iterator[IO[Any]]:
    stream: Any = file.open(mode)
    try:
        yield stream
    except BaseException:  # To close it would make an object of what was written so far.
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
    """Move a whole file of this machine to its place: by a rename on a disk, by a copy into a store.

    Raises:
        OSError: It cannot be written there.
    """
    if isinstance(target, Path):
        file.replace(target)
        return
    with file.open("rb") as source, atomic_write(target) as out:
        shutil.copyfileobj(source, out, _PIECE)
    file.unlink()


def write_bytes(file: Location, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: It cannot be written.
        StoreError: The store cannot be written.
    """
    with atomic_write(file) as stream:
        stream.write(content)


def write_text(file: Location, text: str) -> None:
    """Write a file of a text and a line feed, whole or not at all; errors as of `write_bytes`."""
    write_bytes(file, f"{text}\n".encode())


def create_text(file: Location, text: str) -> None:
    """Write a file of a text and a line feed that is not there yet; of several writers at once, one succeeds.

    Raises:
        OSError: The file is there, or it cannot be written.
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
    """Write a file whole or not at all, if this process may; an object of a store only if nobody else does meanwhile.

    Args:
        file: File to write.
        content: Content, which is held in memory.
        check: Function that raises if this process may not write there, such as `Lease.check`.

    Raises:
        OSError: It cannot be written.
        StoreError: The store cannot be written, or another process has changed the object since `check` was asked.
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
    """Remove a file that is there, if this process may; errors as of `write_checked`."""
    if isinstance(file, Path):
        check()
        file.unlink(missing_ok=True)
        return
    from ple_rec.storage.store import delete, tag_or_none

    if (tag := tag_or_none(file)) is not None:
        check()
        delete(file, tag)


def make_directory(where: Location) -> None:
    """Make a directory and those above it; an object store has none."""
    if isinstance(where, Path):
        where.mkdir(parents=True, exist_ok=True)


def remove_tree(where: Location) -> None:
    """Remove a directory, or all objects below a prefix, where it is there.

    Raises:
        OSError: It cannot be removed.
        StoreError: The store cannot be read, or an object cannot be removed.
    """
    if isinstance(where, Path):
        with suppress(FileNotFoundError):
            shutil.rmtree(where)
        return

    from ple_rec.storage.store import objects_at

    at_once(lambda name: (where / name).unlink(missing_ok=True), [found.name for found in objects_at(where)])


def free_bytes(where: Location) -> int | None:
    """Return what is left on the file system of a directory; None of an object store, or where that cannot be told."""
    try:
        return shutil.disk_usage(where).free if isinstance(where, Path) else None
    except OSError:
        return None


def at_once(call: Callable[[_T], _U], arguments: Iterable[_T], threads: int = _AT_ONCE) -> list[_U]:
    """Return the results of calls that wait for a store, some at the same time, in order.

    Args:
        call: Function to call.
        arguments: Argument of each call.
        threads: Most calls at the same time; few where each holds much memory.
    """
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, arguments))
