"""Publication of a version: its folder appears complete or not at all, and a file `latest` then names it.

Versions of a model and of its side tables are published in the same way (`model_dir.py`). A folder of versions has

    v<N>/          folder of a version; its `manifest.json`, which is written last, has size and SHA-256 of every other
                   file
    .v<N>.<hex>/   working folder of a process that publishes a version. The process locks the file `lock` in it, and
                   writes the version to the folder `v<N>/` in it. When that is complete, it is moved to `v<N>/`.

A version is never changed. For an object store, it is written to a temporary folder of this machine, and uploaded from
there (`remote_model.py`).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from ple_rec.errors import Option, UserError
from ple_rec.inference.manifest import fsync_folder, write_manifest
from ple_rec.inference.remote_model import upload_version
from ple_rec.storage import Location, Remote, explain_errors, names_in, write_text
from ple_rec.storage.locks import NoLocksError, open_locked

LATEST = "latest"
LOCK = "lock"
VERSION_NAME = re.compile(r"v[1-9][0-9]*")
_WORKING_FOLDER = re.compile(r"\.v[1-9][0-9]*\.[0-9a-f]{32}")


def try_lock(path: Path) -> TextIO | None:
    """Open a file, create it if it is missing, and lock it until it is closed.

    Returns:
        Open file; None if another process holds its lock or has just removed its folder.

    Raises:
        UserError: The file system has no locks.
        OSError: The file cannot be created.
    """
    try:
        return open_locked(path)
    except FileNotFoundError:
        return None
    except NoLocksError as error:
        raise UserError(
            str(path),
            f"cannot be locked ({error.strerror})",
            "a lock keeps other processes from writing there at the same time",
            "put the model on a file system with locks",
        ) from error


def names_below(versions: Location) -> list[str]:
    """Return the names of the versions in a folder, in the order of their numbers."""
    names = [name for name in names_in(versions) if VERSION_NAME.fullmatch(name)]
    return sorted(names, key=lambda name: int(name[1:]))


@contextmanager
def explain_write_errors(model_dir: Location) -> Iterator[None]:
    """Turn an OSError in the block into a UserError that asks for space, another folder, or a directory's removal."""
    if isinstance(model_dir, Remote):
        with explain_errors(model_dir, "used", "a model and its side tables are written there"):
            yield
        return
    try:
        yield
    # A renamed or copied file is the first name, and the one that is written the second.
    except IsADirectoryError as error:
        place = str(error.filename2 or error.filename)
        raise UserError(place, "is a directory", "a file is written there", "remove it, and run it again") from error
    except OSError as error:
        place = str(error.filename2 or error.filename or model_dir)
        rule = "a model and its side tables need disk space, and a folder that may be read and written"
        fix = f"{'' if isinstance(error, PermissionError) else 'free disk space, or '}give another folder for the model"
        raise UserError(place, error.strerror or str(error), rule, fix) from error


@contextmanager
def publish_folder(versions: Location, latest: Location, version_name: str | None = None) -> Iterator[Path]:
    """Yield an empty folder; when the block has filled it, publish it in `versions`, and make `latest` name it.

    The manifest is written before the version is published. If the block raises an error, no version is published.

    Args:
        versions: Folder of the versions.
        latest: File with the name of the version to use, which the new version becomes.
        version_name: Name of the new version; None for the number after the last version.

    Raises:
        UserError: The version exists, another process has just created it, or the name is invalid.
    """
    existing = names_below(versions)
    final = versions / _choose_version_name(existing, version_name)
    if final.name in existing:
        raise UserError(str(final), "exists already", "a version is never changed", f"leave {Option.VERSION} out")
    if isinstance(final, Remote):
        with _upload_at_end(final, latest, version_name) as staged:
            yield staged
    else:
        assert isinstance(latest, Path)  # It is on the disk of the versions.
        with _rename_at_end(final, latest, version_name) as staged:
            yield staged


def _choose_version_name(existing: Sequence[str], version_name: str | None) -> str:
    """Return the name of the new version; a UserError is raised if a chosen name is not `v` and a number.

    Args:
        existing: Names of the existing versions, in the order of their numbers.
        version_name: Name that the user has chosen; None for the number after the last version.
    """
    if version_name is None:
        return name_after(existing)
    if not VERSION_NAME.fullmatch(version_name):
        raise UserError(
            Option.VERSION,
            f"got {version_name!r}",
            "versions are named v1, v2, ...",
            "leave it out for the next number",
        )
    return version_name


def name_after(existing: Sequence[str]) -> str:
    """Return the name of the version after the existing ones, which are in the order of their numbers."""
    return f"v{int(existing[-1][1:]) + 1 if existing else 1}"


@contextmanager
def _upload_at_end(final: Remote, latest: Location, version_name: str | None) -> Iterator[Path]:
    """Yield a temporary folder of this machine; when the block ends, upload it as `final`, and replace `latest`."""
    with tempfile.TemporaryDirectory(prefix="ple-rec-") as parent:
        staged = Path(parent) / final.name
        with explain_write_errors(staged):
            staged.mkdir()
            yield staged
            write_manifest(staged)
        try:
            upload_version(staged, final)
        except FileExistsError as error:
            raise _name_taken_error(final, version_name) from error
        write_text(latest, final.name)


@contextmanager
def _rename_at_end(final: Path, latest: Path, version_name: str | None) -> Iterator[Path]:
    """Yield a folder on the disk of the versions; when the block ends, rename it to `final`, and replace `latest`."""
    with _staging_folder(final) as staged:
        yield staged
        write_manifest(staged)
        # The new `latest` is written to a draft file before the version gets its name. A full disk therefore cannot
        # leave a new version that `latest` does not name.
        with _replace_at_end(latest, final.name):
            _publish(staged, final, version_name)


@contextmanager
def _staging_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder in a new working folder, which is locked during the block and removed after it.

    Working folders of killed exports are removed first. Between its creation and its lock, a new working folder looks
    like one of them, so another export may remove it. Locking it then fails, and this export creates another.
    """
    for folder in final.parent.iterdir() if final.parent.is_dir() else ():
        if _WORKING_FOLDER.fullmatch(folder.name):
            _remove_abandoned(folder)
    lock = None
    while lock is None:
        working_folder = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
        working_folder.mkdir(parents=True)
        try:
            lock = try_lock(working_folder / LOCK)
            if lock is not None:
                with lock:
                    (working_folder / final.name).mkdir()
                    yield working_folder / final.name
        finally:
            shutil.rmtree(working_folder, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove a working folder if its export was killed and this user may remove it.

    A folder whose lock is held belongs to a running export, and stays.
    """
    with suppress(OSError):
        lock = try_lock(folder / LOCK)
        if lock is not None:
            with lock:
                shutil.rmtree(folder)


def _publish(staged: Path, final: Path, version_name: str | None) -> None:
    """Rename the folder of a complete version, unless another export has published a version of that name."""
    try:
        staged.rename(final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        raise _name_taken_error(final, version_name) from error
    fsync_folder(final.parent)


def _name_taken_error(final: Location, version_name: str | None) -> UserError:
    """Return the error for a version whose name another export has used meanwhile."""
    rule = "a version is never changed, and of two commands the one that completes first gets the name"
    fix = "run the command again" if version_name is None else f"export again without {Option.VERSION}"
    return UserError(str(final), "was written by another process meanwhile", rule, fix)


@contextmanager
def _replace_at_end(latest: Path, name: str) -> Iterator[None]:
    """Write a new file `latest` as a draft before the block, and replace the old file after it.

    If the block raises an error, the draft is removed and the old file stays.
    """
    draft = latest.with_name(f".{LATEST}.{uuid.uuid4().hex}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(f"{name}\n")
            file.flush()
            os.fsync(file.fileno())
        yield
        draft.replace(latest)
    finally:
        draft.unlink(missing_ok=True)
    fsync_folder(latest.parent)
