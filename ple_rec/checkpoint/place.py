"""Where checkpoints lie: a directory, or a prefix of an object store that fsspec knows (`s3://bucket/key`).

An object store has no rename and no directories: an object is there once it is whole. Nothing here relies on more.
Credentials and endpoint of S3 come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from upath import UPath

from ple_rec.errors import UserError

Place = Path | UPath
_PATTERN = set("*?[]")
_SHOWN = 300  # characters of a library's message that ours repeats


def place(address: str | Path) -> Place:
    """The directory or prefix of that address; nothing is looked up.

    Raises:
        UserError: a scheme that is not known, or whose package is not installed; or characters that fsspec takes for a
            pattern of several addresses.
    """
    if isinstance(address, Path) or "://" not in address:
        return Path(address)
    scheme, _, rest = address.partition("://")
    if scheme == "file":
        return Path(rest)
    if strange := sorted(set(rest) & _PATTERN):
        raise UserError(
            address,
            f"has {' '.join(strange)}",
            "a removal below it would reach what looks alike, too",
            "name it by letters, digits, - _ . and /",
        )
    try:
        found = UPath(address.rstrip("/"), use_listings_cache=False)  # other processes write there too
        found.fs  # noqa: B018 (imports the package that speaks to the store)
    except ImportError as error:
        raise UserError(
            address, f"{scheme}:// cannot be spoken here ({error})", "a package does", "pip install '.[s3]'"
        ) from error
    except ValueError as error:
        raise UserError(
            address, f"unknown scheme {scheme}://", "it is a path, or an address that fsspec knows", "use s3://"
        ) from error
    return found


def is_remote(where: Place) -> bool:
    """Whether it lies in an object store."""
    return not isinstance(where, Path)


@contextmanager
def reached() -> Iterator[None]:
    """Turn what an object store's client raises (no credentials, no connection) into an OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if not type(error).__module__.startswith(("botocore", "aiobotocore", "aiohttp", "gcsfs", "adlfs")):
            raise
        raise OSError(f"{type(error).__name__}: {error}") from error


@contextmanager
def reading(path: Place, what: str = "read") -> Iterator[None]:
    """Turn what a file system or an object store raises into a UserError: `path` cannot be `what`."""
    try:
        with reached():
            yield
    except OSError as error:
        raise UserError(
            str(path),
            f"cannot be {what} ({short(error)})",
            "a run's checkpoints lie there",
            "correct the address, the permission, or the store's credentials and endpoint in the environment",
        ) from error


def is_there(file: Place) -> bool:
    """Whether there is such a file.

    Raises:
        OSError: that cannot be told, which `UPath.is_file` takes for a no.
    """
    if isinstance(file, Path):
        return file.is_file()
    try:
        with reached():
            return bool(file.fs.info(file.path)["type"] == "file")
    except FileNotFoundError:
        return False


def names_in(directory: Place) -> list[str]:
    """What lies directly in a directory or below a prefix, sorted; nothing where it is not there.

    Raises:
        OSError: it cannot be read.
    """
    try:
        if isinstance(directory, Path):
            return sorted(path.name for path in directory.iterdir())
        with reached():
            found = directory.fs.ls(directory.path, detail=False)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name.rstrip("/").rpartition("/")[2] for name in found)


def write_text(file: Place, text: str) -> None:
    """Write a file whole or not at all, and on the disk when it returns.

    Raises:
        OSError: it cannot be written.
    """
    if not isinstance(file, Path):
        with reached():
            file.write_text(text + "\n")  # one put
        return
    partial = file.with_name(file.name + ".partial")
    partial.unlink(missing_ok=True)  # a link would lead the writing elsewhere
    with partial.open("w") as out:
        out.write(text + "\n")
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)


def create_text(file: Place, text: str) -> None:
    """Write a file that is not there yet, on the disk when it returns; of several writers at once, one succeeds.

    Raises:
        OSError: the file is there, or it cannot be written.
    """
    content = f"{text}\n".encode()
    if not isinstance(file, Path):
        with reached():
            file.fs.pipe_file(file.path, content, mode="create")
        return
    with file.open("xb") as out:
        try:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        except OSError:  # a full disk: the next attempt must not find half of it
            file.unlink()
            raise


def make_directory(where: Place) -> None:
    """Make a directory and those above it; an object store has none."""
    if isinstance(where, Path):
        where.mkdir(parents=True, exist_ok=True)


def remove_tree(where: Place) -> None:
    """Remove a directory, or all objects below a prefix, where it is there.

    Raises:
        OSError: it cannot be removed.
    """
    with reached(), suppress(FileNotFoundError):
        if isinstance(where, Path):
            shutil.rmtree(where)
        else:
            where.fs.rm(where.path, recursive=True)


def sizes_in(directory: Place) -> dict[str, int]:
    """Bytes of the files that lie directly in a directory or below a prefix, by name; asked for in one go.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(directory, Path):
        return {path.name: path.stat().st_size for path in directory.iterdir() if path.is_file()}
    with reached():
        found = directory.fs.ls(directory.path, detail=True)
    return {entry["name"].rpartition("/")[2]: int(entry["size"]) for entry in found if entry["type"] == "file"}


def free_bytes(where: Place) -> int | None:
    """Return what is left on the file system of a directory; None of an object store, or where that cannot be told."""
    try:
        return shutil.disk_usage(where).free if isinstance(where, Path) else None
    except OSError:
        return None


def short(error: BaseException) -> str:
    """A library's message on one line, cut where it is long."""
    return " ".join(str(error).split())[:_SHOWN]
