"""Find and create versions of an exported model in MODEL_DIR, the folder to which `ple-rec export` writes.

    latest                  file with the name of the version to serve, replaced atomically
    versions/v<N>/          folder of a version
    tables/<side>/latest    file with the name of the version of a side table to serve
    tables/<side>/v<N>/     folder of a version of that side table (`side_table.py`)

`publish.py` writes these folders. If an export is killed, the next export removes its remains. MODEL_DIR may be the
address of an object store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import overload

from ple_rec.errors import DataError, Option, PleRecError, UserError
from ple_rec.inference.manifest import EXPORT_AGAIN, MANIFEST, MODEL_FILE, explain_unreadable
from ple_rec.inference.publish import (
    LATEST,
    VERSION_NAME,
    explain_write_errors,
    name_after,
    names_below,
    publish_folder,
)
from ple_rec.runs.layout import CONFIG
from ple_rec.storage import Location, Remote, location, names_in

VERSIONS = "versions"
SIDE_TABLES = "tables"


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
        try:
            return _folder_named(model_dir / LATEST, model_dir / VERSIONS, EXPORT_AGAIN)
        except (FileNotFoundError, NotADirectoryError):
            raise _no_model_error(model_dir) from None


def latest_table(model_dir: Location, side: str) -> Location | None:
    """Return the folder of the newest version of a side table; None if the model has no such table.

    Raises:
        DataError: The table's file `latest` is damaged or does not name a version, or this user may not read it.
        UnavailableError: The model is in a store that cannot be read.
    """
    folder = model_dir / SIDE_TABLES / side
    fix = f"remove it, and publish the table again: {publish_command(model_dir, side)}"
    with explain_unreadable(folder):
        try:
            return _folder_named(folder / LATEST, folder, fix)
        except (FileNotFoundError, NotADirectoryError):
            return None


def publish_command(model_dir: Location, side: str, *, from_dataset: bool = False) -> str:
    """Return the command that publishes a side table for the newest version of a model.

    Args:
        model_dir: Folder of the model.
        side: Name of the side table.
        from_dataset: True for a table of rates or of events, which is read from a dataset.
    """
    source = "--dataset DATASET" if from_dataset else "--from FOLDER"
    return f"ple-rec tables {model_dir} --tables {side} {source}"


def _folder_named(latest: Location, versions: Location, fix: str) -> Location:
    """Return the version that a file `latest` names.

    Args:
        latest: The file.
        versions: Folder of the versions.
        fix: Fix of an unreadable file, and of one that names no version if there are no versions.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: The file is damaged or does not name a version.
    """
    name = _read_name(latest, fix)
    version = versions / name
    # In a store, `is_dir` would cost a request, so there the caller notices a missing version when it opens it.
    if not VERSION_NAME.fullmatch(name) or (isinstance(version, Path) and not version.is_dir()):
        names = ", ".join(names_below(versions))
        if names:
            fix = f"write the name of an existing version into it: {names}"
        raise DataError(str(latest), f"names {name!r}", f"it names a folder {versions.name}/v<N>", fix)
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
        return _read_name(model_dir / LATEST, EXPORT_AGAIN)
    except (FileNotFoundError, NotADirectoryError):
        raise _no_model_error(model_dir) from None


def _read_name(latest: Location, fix: str) -> str:
    """Return the text of a file `latest`, cut to 80 characters; `fix` is the fix of an unreadable one."""
    try:
        return latest.read_text(encoding="utf-8").strip()[:80]
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError):
            raise
        raise DataError(str(latest), f"unreadable ({error})", "it has the name of a version as text", fix) from error


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
        return str(json.loads((version / MODEL_FILE).read_text(encoding="utf-8"))["name"])
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
    return names_below(model_dir / VERSIONS)


def next_version_name(model_dir: Location) -> str:
    """Return the name of the version that the next export writes: the number after the last version.

    Raises:
        DataError: This user may not read the folder.
        UnavailableError: The model is in a store that cannot be read.
    """
    with explain_unreadable(model_dir):
        return name_after(version_names(model_dir))


def find_version(model_dir: Location, name: str, option: Option) -> Location:
    """Return the folder of a version that the user has named.

    Args:
        model_dir: Folder of the model.
        name: Name of the version.
        option: Option with the name, for messages.

    Raises:
        UserError: The model has no complete version of this name.
        DataError: This user may not read the folder.
        UnavailableError: The model is in a store that cannot be read.
    """
    version = model_dir / VERSIONS / name
    with explain_unreadable(model_dir):
        if VERSION_NAME.fullmatch(name) and (version / MANIFEST).is_file():
            return version
        names = version_names(model_dir)
    rule = f"it names a complete version of {model_dir}, one of {', '.join(names) or 'none'}"
    fix = "name one of them" if names else "export a whole version first"
    raise UserError(option, f"got {name!r}", rule, fix)


def check_model_dir(model_dir: Location) -> None:
    """Raise an error unless an export may write to a folder, which need not exist.

    Raises:
        UserError: The path is a file, the folder has files but no `versions` folder, or it cannot be read.
    """
    with explain_write_errors(model_dir):
        if model_dir.is_file():
            raise UserError(
                Option.OUT, f"{model_dir} is a file", "a model is a folder of versions", "give another path"
            )
        other = names_in(model_dir)
        if other and not {VERSIONS, SIDE_TABLES} & set(other):
            rule = "a model has a folder of its own"
            raise UserError(Option.OUT, f"{model_dir} holds {', '.join(other[:3])}", rule, "give a new one")


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
    with explain_write_errors(model_dir):
        check_model_dir(model_dir)
        with publish_folder(model_dir / VERSIONS, model_dir / LATEST, version_name) as staged:
            yield staged


@contextmanager
def new_table(model_dir: Location, side: str) -> Iterator[Path]:
    """Yield an empty folder; when the block has filled it, publish it as the newest version of a side table.

    Args:
        model_dir: Folder of the model.
        side: Name of the side table.

    Raises:
        UserError: Another process has just created the same version, the disk is full, the store cannot be written, or
            the file system has no locks.
    """
    folder = model_dir / SIDE_TABLES / side
    with explain_write_errors(model_dir), publish_folder(folder, folder / LATEST) as staged:
        yield staged
