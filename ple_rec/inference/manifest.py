"""Manifest of a version of an exported model: `manifest.json` with size and SHA-256 of every other file.

An export writes it last (`write_manifest`), so a version without it is incomplete. A reader compares the files with it
(`check_version`) before it uses them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

from ple_rec.errors import DataError
from ple_rec.storage import Location, Remote, explain_errors

MANIFEST = "manifest.json"
MODEL_FILE = "model.json"
_DIGEST = re.compile("[0-9a-f]{64}")
EXPORT_AGAIN = (
    "export the run again, or publish the side table again (ple-rec tables); a damaged version can be removed"
)


class ManifestEntry(NamedTuple):
    """Entry of a manifest for one file.

    Args:
        size: Number of bytes.
        digest: SHA-256 in hexadecimal digits.
    """

    size: int
    digest: str


def write_manifest(version: Path) -> None:
    """Write `manifest.json` after all other files of a version, and flush them all to the disk."""
    files = {}
    for path in sorted(path for path in version.rglob("*") if path.is_file() and path.name != MANIFEST):
        with path.open("rb") as file:
            files[str(path.relative_to(version))] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
            os.fsync(file.fileno())
    with (version / MANIFEST).open("w", encoding="utf-8") as file:
        file.write(json.dumps({"files": files}, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    fsync_folder(version)


def check_version(version: Path) -> None:
    """Compare every file of a version with its manifest.

    Raises:
        DataError: A file is missing, has changed, is not in the manifest, or may not be read by this user.
    """
    with explain_unreadable(version):
        _check_files(version)


@contextmanager
def explain_unreadable(folder: Location) -> Iterator[None]:
    """Turn denied permissions on this machine, and all errors of a store, in the block into errors for the user.

    Args:
        folder: Folder of a model, or of a version of one.

    Raises:
        DataError: A file of this machine may not be read.
        UnavailableError: The store cannot be read.
    """
    if isinstance(folder, Remote):
        with explain_errors(folder, "read", "the model is stored there"):
            yield
        return
    try:
        yield
    except PermissionError as error:
        rule = "every file of a model must be readable"
        fix = f"chmod -R a+rX {folder}, or run it as the user that exported the model"
        raise DataError(str(error.filename or folder), "this user may not read it", rule, fix) from error


def read_manifest(version: Location) -> bytes:
    """Return the content of the manifest of a version.

    Raises:
        DataError: There is no manifest.
        OSError: The manifest cannot be read.
    """
    try:
        return (version / MANIFEST).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise _unreadable(version, error) from error


def parse_manifest(version: Location, manifest: bytes) -> dict[str, ManifestEntry]:
    """Return the entries of a manifest, by path from the folder of the version.

    Args:
        version: Folder of the version, for messages.
        manifest: Content of the manifest.

    Raises:
        DataError: The manifest is damaged.
    """
    try:
        files = json.loads(manifest)["files"]
        entries = {str(name): ManifestEntry(int(file["bytes"]), str(file["sha256"])) for name, file in files.items()}
        for name, entry in entries.items():
            if not _DIGEST.fullmatch(entry.digest):
                raise ValueError(f"{name} has the SHA-256 {entry.digest[:80]!r}")
        return entries
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(version, error) from error


def _unreadable(version: Location, error: Exception) -> DataError:
    rule = "it lists the files of a complete version"
    return DataError(str(version / MANIFEST), f"unreadable ({error})", rule, EXPORT_AGAIN)


def _check_files(version: Path) -> None:
    expected = parse_manifest(version, read_manifest(version))
    existing = _files(version) - {MANIFEST}
    if missing := sorted(expected.keys() - existing):
        raise DataError(str(version / missing[0]), "is missing", f"{MANIFEST} lists it", EXPORT_AGAIN)
    if surplus := sorted(existing - expected.keys()):
        raise DataError(str(version / surplus[0]), "was added", f"{MANIFEST} does not list it", "remove the file")
    for name, (size, digest) in expected.items():
        path = version / name
        actual_size = path.stat().st_size
        if actual_size != size:
            raise DataError(str(path), f"has {actual_size} bytes", f"{MANIFEST} says {size}", EXPORT_AGAIN)
        if (actual_digest := _digest(path)) != digest:
            rule = f"{MANIFEST} says {digest[:16]}..."
            raise DataError(str(path), f"has the SHA-256 {actual_digest[:16]}...", rule, EXPORT_AGAIN)


def _files(version: Path) -> set[str]:
    """Return the relative paths of the files below a folder; `rglob` would skip folders that cannot be read."""

    def refuse(error: OSError) -> NoReturn:
        raise error

    below = ((Path(folder), names) for folder, _, names in os.walk(version, onerror=refuse))
    paths = (folder / name for folder, names in below for name in names)
    return {str(path.relative_to(version)) for path in paths if path.is_file()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk, so that a file created or renamed in it outlasts a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
