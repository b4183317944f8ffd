"""A dataset directory at an address of a store: made on this machine, then uploaded, `_SUCCESS` last.

    ADDRESS/_UPLOAD     which dataset is being uploaded, by whom and since when; there only meanwhile

An object is there once it is whole, and a prefix without `_SUCCESS` is no dataset. Below `_UPLOAD` lie only files of
the dataset that it names, so an upload that was stopped goes on with those that are missing. Two runs that upload the
same dataset at once both succeed, for they write the same bytes. One that brings another dataset is refused, or takes
the place over by `--overwrite`, which the first one notices before it writes `_SUCCESS`.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from data_prep.output.writer import KNOWN, PROBE_FILE, UPLOAD_FILE, prepared_recipe, refuse_foreign
from data_prep.sources.footers import Meter
from ple_rec.config.schema import SUCCESS_FILE
from ple_rec.errors import Option, UserError
from ple_rec.storage import (
    Remote,
    StoreError,
    at_once,
    atomic_write,
    create_text,
    explain_errors,
    names_in,
    short,
    write_bytes,
    write_text,
)
from ple_rec.storage.store import objects_at

_THREADS = 4  # files at a time, of each of which a client may hold 50 MB
_CHUNK = 8 << 20
_WHY = "a dataset directory is uploaded there"


def check_address(out: Remote) -> None:
    """Refuse an address that no dataset directory can be uploaded to.

    Raises:
        UserError: It holds what no dataset has, or the store does not permit it, or cannot be reached.
    """
    with explain_errors(out, "written", _WHY):
        refuse_foreign(out, set(names_in(out)) - {UPLOAD_FILE, PROBE_FILE})
        write_bytes(out / PROBE_FILE, b"")
        (out / PROBE_FILE).unlink(missing_ok=True)


def check_upload(out: Remote, recipe: str) -> None:
    """Refuse a place to which another dataset is being uploaded, or was until its run was stopped.

    Args:
        out: Address of the dataset directory.
        recipe: Digest of the recipe of the dataset that is to be there.

    Raises:
        UserError: There is another one.
    """
    with explain_errors(out, "read", _WHY):
        there = _read(out)
    if there is not None and there["recipe"] != recipe:
        raise _in_use(out, there)


def upload(folder: Path, out: Remote, *, overwrite: bool, say: Callable[[str], None]) -> None:
    """Upload a complete dataset directory; what a stopped upload of the same one has brought stays.

    Args:
        folder: The directory on this machine.
        out: Its address.
        overwrite: True where another dataset, or an upload of one, gives way.
        say: Function that gets a line of text as the upload goes on.

    Raises:
        UserError: Another dataset is there or is being uploaded, `out` holds what no dataset has, or the store fails.
    """
    success = (folder / SUCCESS_FILE).read_bytes()
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    del files[SUCCESS_FILE]
    mark = {"recipe": str(json.loads(success)["recipe"]), "success": hashlib.sha256(success).hexdigest()}
    with explain_errors(out, "written", _WHY):
        if not _claim(out, mark, overwrite=overwrite):
            return
        _send(folder, out, {name: files[name] for name in _missing(out, files)}, say)
        _remove_all_but(out, {*files, SUCCESS_FILE})
        if missing := _missing(out, files):
            raise _failed(out / missing[0], "the store does not list it as it was written")
        if not _is_of(there := _read(out), mark) and not _is_done(out, success):
            raise _in_use(out, there)
        write_bytes(out / SUCCESS_FILE, success)
        (out / UPLOAD_FILE).unlink(missing_ok=True)


def _claim(out: Remote, mark: Mapping[str, str], *, overwrite: bool) -> bool:
    """Make the place one of this upload; return False where another run has brought the dataset meanwhile."""
    recipe, there = prepared_recipe(out), _read(out)
    if recipe is None and _is_of(there, mark):
        return True
    if recipe == mark["recipe"] and not overwrite:
        return False
    if recipe is None and there is None:
        try:
            create_text(out / UPLOAD_FILE, _note(mark))
        except FileExistsError as error:  # by a run that was faster
            if not _is_of(there := _read(out), mark):
                raise _in_use(out, there) from error
        return True
    if not overwrite and (there is None or there["recipe"] != mark["recipe"]):
        raise _in_use(out, there)
    refuse_foreign(out, set(names_in(out)) - {UPLOAD_FILE, PROBE_FILE})
    write_text(out / UPLOAD_FILE, _note({"recipe": mark["recipe"], "success": ""}))  # what is there is not of `mark`
    (out / SUCCESS_FILE).unlink(missing_ok=True)
    _remove_all_but(out, ())
    write_text(out / UPLOAD_FILE, _note(mark))
    return True


def _send(folder: Path, out: Remote, files: Mapping[str, int], say: Callable[[str], None]) -> None:
    meter = Meter(f"uploading {len(files):,} files to {out}", sum(files.values()), say)

    def send(name: str) -> None:
        try:
            with (folder / name).open("rb") as source, atomic_write(out / name) as stream:
                while chunk := source.read(_CHUNK):
                    stream.write(chunk)
                    meter.add(len(chunk))
        except (OSError, StoreError) as error:
            why = error.value if isinstance(error, StoreError) else short(error)
            raise _failed(out / name, why) from error

    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            list(pool.map(send, files))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _missing(out: Remote, files: Mapping[str, int]) -> list[str]:
    """Return the files that are not there with their size."""
    there = {found.name: found.size for found in objects_at(out)}
    return [name for name, size in sorted(files.items()) if there.get(name) != size]


def _remove_all_but(out: Remote, kept: Collection[str]) -> None:
    """Remove the files of any dataset but some, so that a glob of parts finds no other's."""
    there = [found.name for found in objects_at(out) if found.name.partition("/")[0] in KNOWN]
    at_once(lambda name: (out / name).unlink(missing_ok=True), set(there).difference(kept))


def _note(mark: Mapping[str, str]) -> str:
    return json.dumps({**mark, "host": socket.gethostname(), "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"})


def _read(out: Remote) -> dict[str, str] | None:
    file = out / UPLOAD_FILE
    try:
        note = json.loads(file.read_text())
        return {key: str(note[key]) for key in ("recipe", "success", "host", "since")}
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError) as error:
        rule, fix = "it says whose upload goes on there", "remove it, if no upload goes on"
        raise UserError(str(file), f"unreadable ({short(error)})", rule, fix) from error


def _is_of(there: Mapping[str, str] | None, mark: Mapping[str, str]) -> bool:
    return there is not None and all(there[key] == value for key, value in mark.items())


def _is_done(out: Remote, success: bytes) -> bool:
    """Return whether another run has uploaded the same dataset to its end."""
    try:
        return (out / SUCCESS_FILE).read_bytes() == success
    except FileNotFoundError:
        return False


def _failed(file: Remote, why: str) -> UserError:
    return UserError(
        str(file),
        f"could not be uploaded ({why})",
        "the dataset is complete on this machine, and none at its address before all files are there",
        "run the same command again: it goes on with the files that are missing",
    )


def _in_use(out: Remote, there: Mapping[str, str] | None) -> UserError:
    by = "" if there is None else f", by {there['host']} since {there['since']}"
    return UserError(
        str(out),
        f"another dataset was brought, or is being uploaded, there{by}",
        "one dataset is there at a time, and whether that run still works cannot be told",
        f"name another {Option.OUT}, or pass {Option.OVERWRITE} when that run has ended",
    )
