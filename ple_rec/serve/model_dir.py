"""Versions of an exported model in MODEL_DIR, each whole or not there, and `latest`, which names one.

    latest                  the name of a version, replaced atomically
    versions/v<N>/          files, and `manifest.json` with the size and SHA-256 of every other one, written last
    versions/.v<N>.<hex>/   never served: an export that goes on and holds `lock` in it, or that was killed, and is
                            removed by the next one; its `v<N>/` becomes the version

A version is never changed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from ple_rec.errors import DataError, PleRecError, UserError
from ple_rec.serve.lock import try_lock
from ple_rec.training.run_dir import CONFIG

MANIFEST = "manifest.json"
LATEST = "latest"
VERSIONS = "versions"
LOCK = "lock"
_NAME = re.compile(r"v[1-9][0-9]*")
_STAGED = re.compile(r"\.v[1-9][0-9]*\.[0-9a-f]{32}")
_AGAIN = "export the run again; versions that are damaged can be removed"


def latest(model_dir: Path) -> Path:
    """Return the folder of the version that `latest` names.

    Raises:
        UserError: Nothing was exported there.
        DataError: It names no version, or this user may not read it.
    """
    with _readable(model_dir):
        name = latest_name(model_dir)
        version = model_dir / VERSIONS / name
        if not _NAME.fullmatch(name) or not version.is_dir():
            there = ", ".join(path.name for path in versions(model_dir))
            fix = f"write the name of one that is there: {there}" if there else _AGAIN
            raise DataError(str(model_dir / LATEST), f"names {name!r}", f"{VERSIONS}/v<N> is a version", fix)
        return version


def latest_name(model_dir: Path) -> str:
    """Return what `latest` holds, 80 characters at most, be it the name of a version or not.

    Raises:
        UserError: Nothing was exported there.
        DataError: It cannot be read as text.
        PermissionError: This user may not read it.
    """
    try:
        return (model_dir / LATEST).read_text(encoding="utf-8").strip()[:80]
    except (FileNotFoundError, NotADirectoryError):
        raise _no_model(model_dir) from None
    except PermissionError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(model_dir / LATEST), f"unreadable ({error})", "it names a version", _AGAIN) from error


def _no_model(folder: Path) -> UserError:
    """Return why a folder without `latest` is not served: one of three usual mix-ups, or none of them."""
    rule = "`ple-rec export RUN --out MODEL_DIR` makes a model"
    if not folder.exists():
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


def name_of(folder: Path) -> str | None:
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
    folder = Path(text)
    if (name := name_of(folder)) is not None:
        rule = "the trained run is wanted, which the model was made of"
        fix = f'give that run; its configuration is named "{name}", and `ple-rec runs` lists runs'
        raise UserError(str(folder), "is an exported model", rule, fix)


def versions(model_dir: Path) -> list[Path]:
    """Return the versions of a model, oldest first."""
    folder = model_dir / VERSIONS
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name[1:]))


def check_out(model_dir: Path) -> None:
    """Refuse a folder that holds something else.

    Raises:
        UserError: It is a file, holds files that no export wrote, or may not be read.
    """
    with _usable(model_dir):
        if model_dir.exists() and not model_dir.is_dir():
            raise UserError("--out", f"{model_dir} is a file", "it is a folder of versions", "give another path")
        other = sorted(path.name for path in model_dir.iterdir()) if model_dir.is_dir() else []
        if other and not (model_dir / VERSIONS).is_dir():
            rule = "a model has a folder of its own"
            raise UserError("--out", f"{model_dir} holds {', '.join(other[:3])}", rule, "give a new one")


@contextmanager
def _usable(model_dir: Path) -> Iterator[None]:
    """Raise a UserError that tells why an export cannot use its folder."""
    try:
        yield
    except OSError as error:
        place = str(error.filename or model_dir)
        rule = "an export needs room for the tables, and a folder that it may read and write"
        fix = "give another --out" if isinstance(error, PermissionError) else "make room, or give another --out"
        raise UserError(place, error.strerror or str(error), rule, fix) from error


@contextmanager
def new_version(model_dir: Path, wanted: str | None = None) -> Iterator[Path]:
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
        final = model_dir / VERSIONS / _name(versions(model_dir), wanted)
        if final.exists():
            raise UserError(str(final), "is there already", "a version is never changed", "leave --version out")
        with _staged(final) as staged:
            yield staged
            seal(staged)
            with _latest(model_dir, final.name):  # room for it is there before the version is
                _become(staged, final, wanted)


def _name(there: Sequence[Path], wanted: str | None) -> str:
    if wanted is not None and not _NAME.fullmatch(wanted):
        raise UserError("--version", f"got {wanted!r}", "versions are v1, v2, ...", "leave it out for the next one")
    return wanted or f"v{int(there[-1].name[1:]) + 1 if there else 1}"


def sealed(staged: Path) -> Path:
    """Return the folder that a folder of `new_version` becomes."""
    return staged.parent.with_name(staged.name)


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
        rule = "a version is never changed, and the first of two that is whole has the name"
        fix = "export again" if wanted is None else "export again without --version"
        raise UserError(str(final), "was made by another export meanwhile", rule, fix) from error
    _synchronise(final.parent)


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
    _synchronise(model_dir)


def seal(version: Path) -> None:
    """Write `manifest.json`, after every other file is on the disk."""
    files = {}
    for path in sorted(path for path in version.rglob("*") if path.is_file() and path.name != MANIFEST):
        with path.open("rb") as file:
            files[str(path.relative_to(version))] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
            os.fsync(file.fileno())
    with (version / MANIFEST).open("w", encoding="utf-8") as file:
        file.write(json.dumps({"files": files}, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    _synchronise(version)


def check_version(version: Path) -> None:
    """Compare every file of a version with its manifest.

    Raises:
        DataError: One is missing, or changed, or there is one more, or this user may not read it.
    """
    with _readable(version):
        _check_files(version)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Raise a DataError that names what this user may not read."""
    try:
        yield
    except PermissionError as error:
        rule = "every file of a model is read"
        fix = f"chmod -R a+rX {folder}, or go on as the user that exported it"
        raise DataError(str(error.filename or folder), "cannot be read by this user", rule, fix) from error


def _check_files(version: Path) -> None:
    try:
        files = json.loads((version / MANIFEST).read_text(encoding="utf-8"))["files"]
        expected = {str(name): (int(file["bytes"]), str(file["sha256"])) for name, file in files.items()}
    except PermissionError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        rule = "it lists the files of a version that is whole"
        raise DataError(str(version / MANIFEST), f"unreadable ({error})", rule, _AGAIN) from error
    there = _files(version) - {MANIFEST}
    if missing := sorted(expected.keys() - there):
        raise DataError(str(version / missing[0]), "is missing", f"{MANIFEST} lists it", _AGAIN)
    if more := sorted(there - expected.keys()):
        raise DataError(str(version / more[0]), "was put there", f"{MANIFEST} does not list it", "remove the file")
    for name, (size, digest) in expected.items():
        path = version / name
        found = path.stat().st_size
        if found != size:
            raise DataError(str(path), f"has {found} bytes", f"{MANIFEST} says {size}", _AGAIN)
        if (other := _digest(path)) != digest:
            raise DataError(str(path), f"has the SHA-256 {other[:16]}...", f"{MANIFEST} says {digest[:16]}...", _AGAIN)


def _files(version: Path) -> set[str]:
    """Return the files below a folder as paths from there; `rglob` would pass over folders that cannot be read."""

    def refuse(error: OSError) -> NoReturn:
        raise error

    below = ((Path(folder), names) for folder, _, names in os.walk(version, onerror=refuse))
    paths = (folder / name for folder, names in below for name in names)
    return {str(path.relative_to(version)) for path in paths if path.is_file()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _synchronise(folder: Path) -> None:
    at = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(at)
    finally:
        os.close(at)
