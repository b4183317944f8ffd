"""Find and create versions of an exported model in MODEL_DIR, the folder to which `ple-rec export` writes.

    latest                  file with the name of the version to serve, replaced atomically
    versions/v<N>/          folder of a version; its `manifest.json`, which is written last, has size and SHA-256 of
                            every other file
    versions/.v<N>.<hex>/   working folder of an export. The export locks the file `lock` in it, and writes the version
                            to its folder `v<N>/`. That folder is moved to `versions/v<N>/` when it is complete.

A working folder is never served. If an export is killed, the next export removes its working folder. A version is never
changed. MODEL_DIR may be the address of an object store; an export then writes to a temporary folder of this machine,
and uploads the version from there (`remote_model.py`).
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO, overload

from ple_rec.errors import DataError, Option, PleRecError, UserError
from ple_rec.inference.manifest import EXPORT_AGAIN, MANIFEST, explain_unreadable, fsync_folder, write_manifest
from ple_rec.inference.remote_model import upload_version
from ple_rec.runs.layout import CONFIG
from ple_rec.storage import Location, Remote, explain_errors, location, names_in, write_text
from ple_rec.storage.locks import NoLocksError, open_locked


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
            f"give an {Option.OUT} on a file system with locks",
        ) from error


LATEST = "latest"
VERSIONS = "versions"
LOCK = "lock"
_VERSION_NAME = re.compile(r"v[1-9][0-9]*")
_WORKING_FOLDER = re.compile(r"\.v[1-9][0-9]*\.[0-9a-f]{32}")


@overload
def latest_version(model_dir: Path) -> Path: ...


@overload
def latest_version(model_dir: Remote) -> Remote: ...


def latest_version(model_dir: Location) -> Location:
    """Return the folder of the version that `latest` names.

    In a store, only the form of the name is checked; the version may be missing.

    Raises:
        UserError: The folder has no exported model.
        DataError: The file `latest` is damaged or does not name a version, or this user may not read it.
        UnavailableError: The model is in a store that cannot be read.
    """
    with explain_unreadable(model_dir):
        name = read_latest(model_dir)
        version = model_dir / VERSIONS / name
        # In a store, `is_dir` would cost a request, so there the caller notices a missing version when it opens it.
        if not _VERSION_NAME.fullmatch(name) or (isinstance(version, Path) and not version.is_dir()):
            names = ", ".join(version_names(model_dir))
            fix = f"write the name of an existing version into it: {names}" if names else EXPORT_AGAIN
            raise DataError(str(model_dir / LATEST), f"names {name!r}", f"it names a folder {VERSIONS}/v<N>", fix)
        return version


def read_latest(model_dir: Location) -> str:
    """Return the text of the file `latest`, cut to 80 characters; it need not be the name of a version.

    Raises:
        UserError: The folder has no exported model.
        DataError: The file cannot be read as text.
        PermissionError: This user may not read the file.
        StoreError: The model is in a store that cannot be read.
    """
    try:
        return (model_dir / LATEST).read_text(encoding="utf-8").strip()[:80]
    except (FileNotFoundError, NotADirectoryError):
        raise _no_model_error(model_dir) from None
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, PermissionError):
            raise
        raise DataError(
            str(model_dir / LATEST), f"unreadable ({error})", "it has the name of a version as text", EXPORT_AGAIN
        ) from error


def _no_model_error(folder: Location) -> UserError:
    """Return the error for a folder without the file `latest`.

    The error names a fix for three common mistakes: a missing folder, a folder inside of a model, and a run.
    """
    rule = "`ple-rec export RUN --out MODEL_DIR` writes a model to a folder"
    if isinstance(folder, Path) and not folder.exists():
        fix = "export a run to it, or give the folder of a model"
        return UserError(str(folder), "no such directory", rule, fix)
    model_dir = next((path.parent for path in (folder, folder.parent) if path.name == VERSIONS), None)
    if model_dir is not None and (model_dir / LATEST).is_file():
        rule = f"the folder of a model has the file {LATEST}, which names the version to serve"
        return UserError(str(folder), "is a folder inside a model", rule, f"give {model_dir}")
    if (folder / CONFIG).is_file() and not (folder / MANIFEST).is_file():
        fix = f"ple-rec export {folder} --out models/{folder.name}"
        return UserError(str(folder), "is a run, not an exported model", rule, fix)
    return UserError(str(folder), f"has no file {LATEST}", rule, "export a run to it, or give the folder of a model")


def model_name(folder: Location) -> str | None:
    """Return the name of an exported model.

    Args:
        folder: Folder of the model, or of one of its versions.

    Returns:
        Name of the model's configuration; None if the folder is neither, or cannot be read.
    """
    try:
        version = latest_version(folder) if (folder / LATEST).is_file() else folder
        if not (version / MANIFEST).is_file():
            return None
        return str(json.loads((version / "model.json").read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, LookupError, TypeError, PleRecError):
        return None


def refuse_exported_model(text: str) -> None:
    """Raise an error if the user has named an exported model, or a version of one, where a run is expected.

    Args:
        text: Path or address that the user has given.

    Raises:
        UserError: The text names the folder of a model or of a version.
    """
    folder = location(text)
    if (name := model_name(folder)) is not None:
        rule = "this command needs the trained run, from which the model was exported"
        fix = f'give the run; its configuration has the name "{name}", and `ple-rec runs` lists runs'
        raise UserError(str(folder), "is an exported model", rule, fix)


def version_names(model_dir: Location) -> list[str]:
    """Return the names of the versions of a model in the order of their numbers; an empty list without a model.

    In a store, versions that an export has not completed are included.

    Raises:
        OSError: The folder cannot be listed.
        StoreError: The store cannot be listed.
    """
    names = [name for name in names_in(model_dir / VERSIONS) if _VERSION_NAME.fullmatch(name)]
    return sorted(names, key=lambda name: int(name[1:]))


def check_model_dir(model_dir: Location) -> None:
    """Raise an error unless an export may write to a folder, which need not exist.

    Raises:
        UserError: The path is a file, the folder has files but no `versions` folder, or it cannot be read.
    """
    with _explain_write_errors(model_dir):
        if model_dir.is_file():
            raise UserError(
                Option.OUT, f"{model_dir} is a file", "a model is a folder of versions", "give another path"
            )
        other = names_in(model_dir)
        if other and VERSIONS not in other:
            rule = "a model has a folder of its own"
            raise UserError(Option.OUT, f"{model_dir} holds {', '.join(other[:3])}", rule, "give a new one")


@contextmanager
def _explain_write_errors(model_dir: Location) -> Iterator[None]:
    """Turn an OSError in the block into a UserError that asks for space or another folder."""
    if isinstance(model_dir, Remote):
        with explain_errors(model_dir, "used", "an export reads and writes there"):
            yield
        return
    try:
        yield
    except OSError as error:
        place = str(error.filename or model_dir)
        rule = "an export needs disk space for the tables, and a folder that it may read and write"
        fix = f"{'' if isinstance(error, PermissionError) else 'free disk space, or '}give another {Option.OUT}"
        raise UserError(place, error.strerror or str(error), rule, fix) from error


@contextmanager
def new_version(model_dir: Location, version_name: str | None = None) -> Iterator[Path]:
    """Yield an empty folder; when the block has filled it, publish it as a version, and make `latest` name it.

    The manifest is written before the version is published. If the block raises an error, no version is published.

    Args:
        model_dir: Folder of the model.
        version_name: Name of the version; None for the number after the last version.

    Raises:
        UserError: The version exists, another export has just created it, the name is invalid, the disk is full, the
            store cannot be written, or the file system has no locks.
    """
    with _explain_write_errors(model_dir):
        check_model_dir(model_dir)
        existing = version_names(model_dir)
        final = model_dir / VERSIONS / _choose_version_name(existing, version_name)
        if final.name in existing:
            raise UserError(str(final), "exists already", "a version is never changed", f"leave {Option.VERSION} out")
        publishing = (
            _upload_at_end(final, version_name) if isinstance(final, Remote) else _rename_at_end(final, version_name)
        )
        with publishing as staged:
            yield staged


def _choose_version_name(existing: Sequence[str], version_name: str | None) -> str:
    """Return the name of the new version; a UserError is raised if a chosen name is not `v` and a number.

    Args:
        existing: Names of the existing versions, in the order of their numbers.
        version_name: Name that the user has chosen; None for the number after the last version.
    """
    if version_name is not None and not _VERSION_NAME.fullmatch(version_name):
        raise UserError(
            Option.VERSION,
            f"got {version_name!r}",
            "versions are named v1, v2, ...",
            "leave it out for the next number",
        )
    return version_name or f"v{int(existing[-1][1:]) + 1 if existing else 1}"


@contextmanager
def _upload_at_end(final: Remote, version_name: str | None) -> Iterator[Path]:
    """Yield a temporary folder of this machine; when the block ends, upload it to `final` and replace `latest`."""
    with tempfile.TemporaryDirectory(prefix="ple-rec-") as parent:
        staged = Path(parent) / final.name
        with _explain_write_errors(staged):
            staged.mkdir()
            yield staged
            write_manifest(staged)
        try:
            upload_version(staged, final)
        except FileExistsError as error:
            raise _name_taken_error(final, version_name) from error
        write_text(final.parent.parent / LATEST, final.name)


@contextmanager
def _rename_at_end(final: Path, version_name: str | None) -> Iterator[Path]:
    """Yield a folder on the disk of the versions; when the block ends, rename it to `final` and replace `latest`."""
    with _staging_folder(final) as staged:
        yield staged
        write_manifest(staged)
        # The new `latest` is written to a draft file before the version gets its name. A full disk therefore cannot
        # leave a new version that `latest` does not name.
        with _replacing_latest(final.parent.parent, final.name):
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
    rule = "a version is never changed, and of two exports the one that completes first gets the name"
    fix = "export again" if version_name is None else f"export again without {Option.VERSION}"
    return UserError(str(final), "was written by another export meanwhile", rule, fix)


@contextmanager
def _replacing_latest(model_dir: Path, name: str) -> Iterator[None]:
    """Write the new `latest` as a draft before the block, and replace the old file after it.

    If the block raises an error, the draft is removed and the old file stays.
    """
    draft = model_dir / f".{LATEST}.{uuid.uuid4().hex}"
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(f"{name}\n")
            file.flush()
            os.fsync(file.fileno())
        yield
        draft.replace(model_dir / LATEST)
    finally:
        draft.unlink(missing_ok=True)
    fsync_folder(model_dir)
