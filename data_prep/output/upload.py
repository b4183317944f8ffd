"""Upload of a dataset directory to an address of a store, `_SUCCESS` last.

    ADDRESS/_UPLOAD     the dataset that is being uploaded, by whom and since when; removed at the end

An object appears when it is whole, and a prefix without `_SUCCESS` is no dataset. While `_UPLOAD` exists, the address
holds only files of the dataset that it names, so the next run of a stopped upload sends only the missing files. Two
runs that upload the same dataset at once both succeed, since they write the same bytes. A run with another dataset is
refused, or takes over the place by `--overwrite`, which the first run notices before it writes `_SUCCESS`.
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

_THREADS = 4  # A client may hold 50 MB of each file that is sent.
_CHUNK = 8 << 20
_WHY = "a dataset directory is uploaded there"


def check_address(out: Remote) -> None:
    """Refuse an address that no dataset directory can be uploaded to.

    Raises:
        UserError: The address holds files that no dataset has, or the store cannot be reached, or refuses to write.
    """
    with explain_errors(out, "written", _WHY):
        refuse_foreign(out, set(names_in(out)) - {UPLOAD_FILE, PROBE_FILE})
        write_bytes(out / PROBE_FILE, b"")
        (out / PROBE_FILE).unlink(missing_ok=True)


def check_upload(out: Remote, recipe: str) -> None:
    """Refuse an address that holds the unfinished upload of another dataset.

    Args:
        out: Address of the dataset directory.
        recipe: Digest of the recipe of the dataset that will be uploaded.

    Raises:
        UserError: Another dataset is being uploaded there, or a stopped run has left its upload.
    """
    with explain_errors(out, "read", _WHY):
        note = _read(out)
    if note is not None and note["recipe"] != recipe:
        raise _in_use(out, note)


def upload(folder: Path, out: Remote, *, overwrite: bool, say: Callable[[str], None]) -> None:
    """Upload a complete dataset directory; files of a stopped upload of the same dataset are kept.

    Args:
        folder: Dataset directory on this machine.
        out: Address to which it is uploaded.
        overwrite: True to replace another dataset, or an upload of one.
        say: Function that gets a line of text as the upload proceeds.

    Raises:
        UserError: The address holds another dataset, an upload of one or files that no dataset has, or the store fails.
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
        if not _is_of(note := _read(out), mark) and not _is_done(out, success):
            raise _in_use(out, note)
        write_bytes(out / SUCCESS_FILE, success)
        (out / UPLOAD_FILE).unlink(missing_ok=True)


def _claim(out: Remote, mark: Mapping[str, str], *, overwrite: bool) -> bool:
    """Mark the address as that of this upload; return False if another run has uploaded the dataset meanwhile."""
    recipe, note = prepared_recipe(out), _read(out)
    if recipe is None and _is_of(note, mark):
        return True
    if recipe == mark["recipe"] and not overwrite:
        return False
    if recipe is None and note is None:
        try:
            create_text(out / UPLOAD_FILE, _note(mark))
        except FileExistsError as error:  # Another run was faster.
            if not _is_of(note := _read(out), mark):
                raise _in_use(out, note) from error
        return True
    if not overwrite and (note is None or note["recipe"] != mark["recipe"]):
        raise _in_use(out, note)
    refuse_foreign(out, set(names_in(out)) - {UPLOAD_FILE, PROBE_FILE})
    # Until the old files are removed, the note names no `_SUCCESS`, so that no run keeps them as its own.
    write_text(out / UPLOAD_FILE, _note({"recipe": mark["recipe"], "success": ""}))
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
    """Return the files that the address does not hold with the right size."""
    sizes = {each.name: each.size for each in objects_at(out)}
    return [name for name, size in sorted(files.items()) if sizes.get(name) != size]


def _remove_all_but(out: Remote, keep: Collection[str]) -> None:
    """Remove the dataset files that are not in `keep`, so that a glob of parts matches no part of another dataset."""
    names = [each.name for each in objects_at(out) if each.name.partition("/")[0] in KNOWN]
    at_once(lambda name: (out / name).unlink(missing_ok=True), set(names).difference(keep))


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
        rule, fix = "it names the upload in progress", "remove it, if no upload goes on"
        raise UserError(str(file), f"unreadable ({short(error)})", rule, fix) from error


def _is_of(note: Mapping[str, str] | None, mark: Mapping[str, str]) -> bool:
    return note is not None and all(note[key] == value for key, value in mark.items())


def _is_done(out: Remote, success: bytes) -> bool:
    """Return whether another run has completed the upload of the same dataset."""
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


def _in_use(out: Remote, note: Mapping[str, str] | None) -> UserError:
    by = "" if note is None else f", by {note['host']} since {note['since']}"
    return UserError(
        str(out),
        f"another dataset was brought, or is being uploaded, there{by}",
        "one dataset is there at a time, and whether that run still works cannot be told",
        f"name another {Option.OUT}, or pass {Option.OVERWRITE} when that run has ended",
    )
