"""Places of files that a user names: a path on this machine, or an address in an object store (`s3://bucket/key`).

A store has no rename and no directories: an object is there once it is whole, and nothing here relies on more.
Credentials and endpoint of S3 come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any, TypeVar

from ple_rec.errors import UnavailableError, UserError

_T = TypeVar("_T")
_U = TypeVar("_U")
_PATTERN = set("*?[]")
_SHOWN = 300  # characters of a library's message that ours repeats
_PIECE = 8 << 20  # bytes that are copied at a time
_AT_ONCE = 16  # requests to a store that wait at the same time
_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "adlfs", "azure")  # whose errors are no OSError


@dataclass(frozen=True)
class Remote:
    """An address in an object store, with those methods of `pathlib.Path` that a store can serve.

    Args:
        address: Scheme, bucket and key, without a slash at the end.
    """

    address: str

    def __str__(self) -> str:
        return self.address

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self.address}/{name}")

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.address.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The suffix of the name, such as `.parquet`."""
        return Path(self.name).suffix

    def with_suffix(self, suffix: str) -> Remote:
        """Return the address with another suffix of its name."""
        return self.parent / Path(self.name).with_suffix(suffix).name

    @property
    def parent(self) -> Remote:
        """The prefix above; of a bucket the bucket."""
        above = self.address.rpartition("/")[0]
        return self if above.endswith("/") else Remote(above)

    def open(self, mode: str = "rb") -> IO[Any]:
        """Open the object as a stream of bytes; `atomic_write` is for those that write.

        Raises:
            OSError: The object is not there, or the store cannot be reached.
        """
        from ple_rec.storage.handler import manager

        with translate_errors():
            stream: IO[Any] = manager().open(self.address, mode)
            return stream

    def read_bytes(self) -> bytes:
        """Return the content of the object, which may be written anew meanwhile; errors as of `open`."""
        from ple_rec.storage.handler import FsspecHandler, handler_of

        handler = handler_of(self.address)
        with translate_errors():
            if isinstance(handler, FsspecHandler):  # by one request, which sees one content of the object
                return bytes(handler.filesystem(self.address).cat_file(self.address))
            with self.open() as stream:
                return bytes(stream.read())

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the content of the object as text; errors as of `open`."""
        return self.read_bytes().decode(encoding)

    def is_file(self) -> bool:
        """Return whether the object is there.

        Raises:
            OSError: That cannot be told.
        """
        from ple_rec.storage.handler import manager

        with translate_errors():
            return bool(manager().isfile(self.address))

    def is_dir(self) -> bool:
        """Return whether objects lie below the prefix; errors as of `is_file`."""
        from ple_rec.storage.handler import manager

        with translate_errors():
            return bool(manager().isdir(self.address))

    def exists(self) -> bool:
        """Return whether the object is there, or objects lie below it as a prefix; errors as of `is_file`."""
        from ple_rec.storage.handler import manager

        with translate_errors():
            return bool(manager().exists(self.address))

    def absolute(self) -> Remote:
        """Return the address itself: it starts from no folder."""
        return self

    def is_absolute(self) -> bool:
        """Return True: an address starts from no folder."""
        return True

    def glob(self, pattern: str) -> Iterator[Remote]:
        """Yield the objects directly below the prefix whose names match a pattern, in order.

        Raises:
            OSError: The store cannot be read.
        """
        return (self / name for name in names_in(self) if fnmatch(name, pattern))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object.

        Raises:
            OSError: It cannot be removed, or was not there.
        """
        from ple_rec.storage.handler import manager

        try:
            with translate_errors():
                manager().rm(self.address)
        except FileNotFoundError:
            if not missing_ok:
                raise


Location = Path | Remote


def location(address: str | Path | Remote) -> Location:
    """Return the path or address that a text names; nothing is looked up.

    Raises:
        UserError: No handler serves the scheme, the package that it needs is not installed, or the address has
            characters that some stores take for a pattern of several addresses.
    """
    if isinstance(address, Path | Remote):
        return address
    if not is_address(address):
        return Path(address.removeprefix("file://"))
    from ple_rec.storage.handler import FsspecHandler, handler_of, handlers

    scheme, _, rest = address.partition("://")
    handler = handler_of(address)
    if handler is None:
        known = ", ".join(sorted(handlers()))
        raise UserError(address, f"unknown scheme {scheme}://", f"it is a path, or one of {known}", "use s3://")
    if not rest.strip("/") or not {".", ".."}.isdisjoint(rest.split("/")):
        raise UserError(
            address,
            "has no bucket, or a part that is . or ..",
            "a store takes a key as it stands",
            f"write {scheme}://bucket/key",
        )
    if strange := sorted(set(rest) & _PATTERN):
        raise UserError(
            address,
            f"has {' '.join(strange)}",
            "a store may take it for a pattern of several addresses",
            "name it by letters, digits, - _ . and /",
        )
    if isinstance(handler, FsspecHandler):
        try:
            handler.filesystem(address)
        except ImportError as error:
            raise UserError(
                address, f"{scheme}:// cannot be used here ({error})", "a package serves it", "pip install '.[s3]'"
            ) from error
    return Remote(address.rstrip("/"))


def is_address(text: str) -> bool:
    """Return whether a text is an address of a store rather than a path of this machine."""
    return "://" in text and not text.startswith("file://")


def is_remote(where: Location) -> bool:
    """Return whether a place lies in an object store."""
    return isinstance(where, Remote)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn what the client of a store raises (no credentials, no connection) into an OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if not type(error).__module__.startswith(_CLIENTS):
            raise
        raise OSError(f"{type(error).__name__}: {error}") from error


@contextmanager
def explain_errors(
    where: Location, action: str = "read", why: str = "ple-rec reads and writes there"
) -> Iterator[None]:
    """Turn what a file system or an object store raises into an UnavailableError, which is a UserError.

    Args:
        where: Place that the block reads or writes.
        action: Participle of what is done with it, for the message.
        why: Sentence that says what lies there, for the message.
    """
    try:
        with translate_errors():
            yield
    except OSError as error:
        raise UnavailableError(
            str(where),
            f"cannot be {action} ({short(error)})",
            why,
            "correct the address, the permission, or the store's credentials and endpoint in the environment",
        ) from error


def names_in(directory: Location) -> list[str]:
    """Return the names of what lies directly in a directory or below a prefix, sorted; nothing where it is not there.

    Raises:
        OSError: It cannot be read.
    """
    try:
        if isinstance(directory, Path):
            return sorted(path.name for path in directory.iterdir())
        from ple_rec.storage.handler import manager

        with translate_errors():
            found = manager().ls(directory.address)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name.rstrip("/").rpartition("/")[2] for name in found)


def size_of(file: Location) -> int:
    """Return the bytes of a file.

    Raises:
        OSError: It is not there, or cannot be reached.
    """
    if isinstance(file, Path):
        return file.stat().st_size
    with translate_errors(), file.open() as stream:
        return stream.seek(0, os.SEEK_END)


def modified_at(file: Location) -> datetime | None:
    """Return when a file was last written; None where the handler of a store cannot tell.

    Raises:
        OSError: It is not there, or cannot be reached.
    """
    if isinstance(file, Path):
        return datetime.fromtimestamp(file.stat().st_mtime, tz=UTC)
    from ple_rec.storage.handler import FsspecHandler, handler_of

    handler = handler_of(file.address)
    if not isinstance(handler, FsspecHandler):
        return None
    with translate_errors():
        found: datetime = handler.filesystem(file.address).modified(file.address)
        return found


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
    """
    if isinstance(directory, Path):
        return {path.name: path.stat().st_size for path in directory.iterdir() if path.is_file()}

    def size(name: str) -> int | None:
        return size_of(file) if (file := directory / name).is_file() else None

    names = names_in(directory)
    return {name: size for name, size in zip(names, at_once(size, names), strict=True) if size is not None}


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
        except BaseException:  # such as a full disk: the next attempt must not find half of it
            partial.unlink()
            raise
    if not exclusive:
        partial.replace(file)


@contextmanager
def _upload(file: Remote, mode: str) -> Iterator[IO[Any]]:
    with translate_errors():
        stream: Any = file.open(mode)
        try:
            yield stream
        except BaseException:  # to close it would make an object of what was written so far
            if hasattr(stream, "discard"):
                stream.discard()
                stream.closed = True
            raise
        stream.close()


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
    """
    with atomic_write(file, "xb") as stream:
        stream.write(f"{text}\n".encode())


def make_directory(where: Location) -> None:
    """Make a directory and those above it; an object store has none."""
    if isinstance(where, Path):
        where.mkdir(parents=True, exist_ok=True)


def remove_tree(where: Location) -> None:
    """Remove a directory, or all objects below a prefix, where it is there.

    Raises:
        OSError: It cannot be removed.
    """
    if isinstance(where, Path):
        with suppress(FileNotFoundError):
            shutil.rmtree(where)
        return

    def remove(name: str) -> None:
        below = where / name
        below.unlink(missing_ok=True) if below.is_file() else remove_tree(below)

    list(at_once(remove, [name for name in names_in(where) if name]))


def free_bytes(where: Location) -> int | None:
    """Return what is left on the file system of a directory; None of an object store, or where that cannot be told."""
    try:
        return shutil.disk_usage(where).free if isinstance(where, Path) else None
    except OSError:
        return None


def short(error: BaseException) -> str:
    """Return the message of a library on one line, cut where it is long."""
    return " ".join(str(error).split())[:_SHOWN]


def at_once(call: Callable[[_T], _U], arguments: Iterable[_T]) -> Iterator[_U]:
    """Return the results of calls that wait for a store, some at the same time, in order."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(call, arguments)
