"""Versions of an exported model in MODEL_DIR, each whole or not there, and `latest`, which names one.

    latest                  the name of a version, replaced atomically
    versions/v<N>/          files, and `manifest.json` with the size and SHA-256 of every other one, written last
    versions/.v<N>.<hex>/   never served: an export that goes on and holds `lock` in it, or that was killed, and is
                            removed by the next one; its `v<N>/` becomes the version

A version is never changed. MODEL_DIR may be an address of an object store, where a version is made whole in a temporary
folder and then uploaded (`remote_model.py`).
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
from ple_rec.inference.manifest import EXPORT_AGAIN, MANIFEST, readable, seal, synchronise
from ple_rec.inference.remote_model import upload_version
from ple_rec.runs.layout import CONFIG
from ple_rec.storage import Location, Remote, explain_errors, location, names_in, write_text
from ple_rec.storage.locks import NoLocksError, open_locked


def try_lock(path: Path) -> TextIO | None:
    """Open a file, made where it is not there, and lock it until it is closed.

    Returns:
        None where another process holds it, or has removed its folder meanwhile.

    Raises:
        UserError: The file system has no locks.
        OSError: The file cannot be made.
    """
    try:
        return open_locked(path)
    except FileNotFoundError:
        return None
    except NoLocksError as error:
        raise UserError(
            str(path),
            f"cannot be locked ({error.strerror})",
            "a lock keeps other processes from what one of them writes",
            f"give an {Option.OUT} on a file system with locks",
        ) from error


LATEST = "latest"
VERSIONS = "versions"
LOCK = "lock"
_NAME = re.compile(r"v[1-9][0-9]*")
_STAGED = re.compile(r"\.v[1-9][0-9]*\.[0-9a-f]{32}")


@overload
def latest(model_dir: Path) -> Path: ...


@overload
def latest(model_dir: Remote) -> Remote: ...


def latest(model_dir: Location) -> Location:
    """Return the folder of the version that `latest` names.

    Raises:
        UserError: Nothing was exported there.
        DataError: It names no version, or this user may not read it.
        UnavailableError: It lies in a store that cannot be read.
    """
    with readable(model_dir):
        name = latest_name(model_dir)
        version = model_dir / VERSIONS / name
        # In a store, whoever opens the version finds out.
        if not _NAME.fullmatch(name) or (isinstance(version, Path) and not version.is_dir()):
            there = ", ".join(versions(model_dir))
            fix = f"write the name of one that is there: {there}" if there else EXPORT_AGAIN
            raise DataError(str(model_dir / LATEST), f"names {name!r}", f"{VERSIONS}/v<N> is a version", fix)
        return version


def latest_name(model_dir: Location) -> str:
    """Return what `latest` holds, 80 characters at most, be it the name of a version or not.

    Raises:
        UserError: Nothing was exported there.
        DataError: It cannot be read as text.
        OSError: This user may not read it.
        StoreError: It lies in a store that cannot be read.
    """
    try:
        return (model_dir / LATEST).read_text(encoding="utf-8").strip()[:80]
    except (FileNotFoundError, NotADirectoryError):
        raise _no_model(model_dir) from None
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, PermissionError):
            raise
        raise DataError(str(model_dir / LATEST), f"unreadable ({error})", "it names a version", EXPORT_AGAIN) from error


def _no_model(folder: Location) -> UserError:
    """Return why a folder without `latest` is not served: one of three usual mix-ups, or none of them."""
    rule = "`ple-rec export RUN --out MODEL_DIR` makes a model"
    if isinstance(folder, Path) and not folder.exists():
        fix = "export a run there, or give the folder of a model"
        return UserError(str(folder), "no such directory", rule, fix)
    model_dir = next((path.parent for path in (folder, folder.parent) if path.name == VERSIONS), None)
    if model_dir is not None and (model_dir / LATEST).is_file():
        rule = f"a model is the folder with {LATEST}, which names the version to serve"
        return UserError(str(folder), "is inside a model", rule, f"give {model_dir}")
    if (folder / CONFIG).is_file() and not (folder / MANIFEST).is_file():
        fix = f"ple-rec export {folder} --out models/{folder.name}"
        return UserError(str(folder), "is a run, not a model of one", rule, fix)
    return UserError(str(folder), f"has no file {LATEST}", rule, "export a run there, or give the right folder")


def name_of(folder: Location) -> str | None:
    """Return the name, from its run's configuration, of a model or of a version of one; None where it is neither."""
    try:
        version = latest(folder) if (folder / LATEST).is_file() else folder
        if not (version / MANIFEST).is_file():
            return None
        return str(json.loads((version / "model.json").read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, LookupError, TypeError, PleRecError):
        return None


def check_no_model(text: str) -> None:
    """Refuse a model, or a version of one, where a run is wanted.

    Raises:
        UserError: It is the folder of one.
    """
    folder = location(text)
    if (name := name_of(folder)) is not None:
        rule = "the trained run is wanted, which the model was made of"
        fix = f'give that run; its configuration is named "{name}", and `ple-rec runs` lists runs'
        raise UserError(str(folder), "is an exported model", rule, fix)


def versions(model_dir: Location) -> list[str]:
    """Return the names of the versions of a model, oldest first; in a store also those that are not whole.

    Raises:
        OSError: They cannot be listed.
    """
    found = [name for name in names_in(model_dir / VERSIONS) if _NAME.fullmatch(name)]
    return sorted(found, key=lambda name: int(name[1:]))


def check_out(model_dir: Location) -> None:
    """Refuse a folder that holds something else.

    Raises:
        UserError: It is a file, holds files that no export wrote, or may not be read.
    """
    with _usable(model_dir):
        if model_dir.is_file():
            raise UserError(Option.OUT, f"{model_dir} is a file", "it is a folder of versions", "give another path")
        other = names_in(model_dir)
        if other and VERSIONS not in other:
            rule = "a model has a folder of its own"
            raise UserError(Option.OUT, f"{model_dir} holds {', '.join(other[:3])}", rule, "give a new one")


@contextmanager
def _usable(model_dir: Location) -> Iterator[None]:
    """Raise a UserError that tells why an export cannot use its folder."""
    if isinstance(model_dir, Remote):
        with explain_errors(model_dir, "used", "an export reads and writes there"):
            yield
        return
    try:
        yield
    except OSError as error:
        place = str(error.filename or model_dir)
        rule = "an export needs room for the tables, and a folder that it may read and write"
        fix = f"{'' if isinstance(error, PermissionError) else 'make room, or '}give another {Option.OUT}"
        raise UserError(place, error.strerror or str(error), rule, fix) from error


@contextmanager
def new_version(model_dir: Location, wanted: str | None = None) -> Iterator[Path]:
    """Give a folder to be filled; when the block ends it is sealed, becomes a version, and `latest` names it.

    Args:
        model_dir: Folder of the model.
        wanted: Name of the version; None for the one after the last.

    Raises:
        UserError: There is such a version, or another export has made it meanwhile, the name is none of a version, the
            disk is full, or it has no locks.
    """
    with _usable(model_dir):
        check_out(model_dir)
        there = versions(model_dir)
        final = model_dir / VERSIONS / _name(there, wanted)
        if final.name in there:
            raise UserError(str(final), "is there already", "a version is never changed", f"leave {Option.VERSION} out")
        made = _uploaded(final, wanted) if isinstance(final, Remote) else _renamed(final, wanted)
        with made as staged:
            yield staged


def _name(there: Sequence[str], wanted: str | None) -> str:
    if wanted is not None and not _NAME.fullmatch(wanted):
        raise UserError(Option.VERSION, f"got {wanted!r}", "versions are v1, v2, ...", "leave it out for the next one")
    return wanted or f"v{int(there[-1][1:]) + 1 if there else 1}"


@contextmanager
def _uploaded(final: Remote, wanted: str | None) -> Iterator[Path]:
    """Give a temporary folder that is uploaded at the end."""
    with tempfile.TemporaryDirectory(prefix="ple-rec-") as parent:
        staged = Path(parent) / final.name
        with _usable(staged):
            staged.mkdir()
            yield staged
            seal(staged)
        try:
            upload_version(staged, final)
        except FileExistsError as error:
            raise _made_meanwhile(final, wanted) from error
        write_text(final.parent.parent / LATEST, final.name)


@contextmanager
def _renamed(final: Path, wanted: str | None) -> Iterator[Path]:
    """Give a folder beside the versions that is renamed at the end."""
    with _staged(final) as staged:
        yield staged
        seal(staged)
        with _latest(final.parent.parent, final.name):  # room for it is there before the version is
            _become(staged, final, wanted)


@contextmanager
def _staged(final: Path) -> Iterator[Path]:
    """Give a locked folder that nobody else has, and remove it at the end; those of killed exports are removed first.

    Who makes one holds no lock for a moment. Another export that takes it for a killed one then is found out by the
    lock, and one more is made.
    """
    for left in final.parent.iterdir() if final.parent.is_dir() else ():
        if _STAGED.fullmatch(left.name):
            _remove_left(left)
    lock = None
    while lock is None:
        own = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
        own.mkdir(parents=True)
        try:
            lock = try_lock(own / LOCK)
            if lock is not None:
                with lock:
                    (own / final.name).mkdir()
                    yield own / final.name
        finally:
            shutil.rmtree(own, ignore_errors=True)


def _remove_left(folder: Path) -> None:
    """Remove what a killed export has left, as far as this user may; one that goes on holds its lock."""
    with suppress(OSError):
        lock = try_lock(folder / LOCK)
        if lock is not None:
            with lock:
                shutil.rmtree(folder)


def _become(staged: Path, final: Path, wanted: str | None) -> None:
    try:
        staged.rename(final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        raise _made_meanwhile(final, wanted) from error
    synchronise(final.parent)


def _made_meanwhile(final: Location, wanted: str | None) -> UserError:
    rule = "a version is never changed, and the first of two that is whole has the name"
    fix = "export again" if wanted is None else f"export again without {Option.VERSION}"
    return UserError(str(final), "was made by another export meanwhile", rule, fix)


@contextmanager
def _latest(model_dir: Path, name: str) -> Iterator[None]:
    """Write `latest` beside the old one, which it replaces when the block ends without an error."""
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
    synchronise(model_dir)
