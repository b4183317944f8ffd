"""Upload of a dataset directory to an address of an object store, with `_SUCCESS` as the last file.

An address without `_SUCCESS` does not count as a dataset. During an upload it holds the note `_UPLOAD`, a JSON object
with the host, the time of the beginning, and the dataset, which is identified by digests of its recipe and of the
content of its `_SUCCESS`. All other files at the address belong to the dataset of the note, so a run after a stopped
upload sends only the missing files. Two runs that upload the same dataset at once
both succeed, since they write the same bytes. A run with another dataset is refused, or with `--overwrite` takes over
the address; the first run notices that before it writes `_SUCCESS`.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from data_prep.output.writer import DATASET_NAMES, PROBE_FILE, UPLOAD_FILE, existing_recipe_digest, refuse_foreign
from data_prep.sources.footers import Meter
from ple_rec.config.schema import SUCCESS_FILE
from ple_rec.errors import Option, UserError
from ple_rec.storage import (
    Remote,
    StoreError,
    atomic_write,
    create_text,
    explain_errors,
    map_concurrently,
    names_in,
    short_message,
    write_bytes,
    write_text,
)
from ple_rec.storage.store import objects_at

_THREADS = 4  # A client of a store may hold 50 MB in memory for each file that is sent.
_CHUNK = 8 << 20  # Bytes that are read and sent at a time.
_PURPOSE = "a dataset directory is uploaded there"  # Why the address is accessed, for messages on errors of the store.


def check_address(out: Remote) -> None:
    """Refuse an address that no dataset directory can be uploaded to.

    Raises:
        UserError: The address holds files that belong to no dataset, or the store cannot be reached or written to.
    """
    with explain_errors(out, "written", _PURPOSE):
        refuse_foreign(out, set(names_in(out)) - {UPLOAD_FILE, PROBE_FILE})
        write_bytes(out / PROBE_FILE, b"")
        (out / PROBE_FILE).unlink(missing_ok=True)


def check_upload(out: Remote, recipe_digest: str) -> None:
    """Refuse an address that holds the unfinished upload of another dataset.

    Args:
        out: Address of the dataset directory.
        recipe_digest: Digest of the recipe of the dataset that will be uploaded.

    Raises:
        UserError: Another dataset is being uploaded there, or a stopped run has left its upload.
    """
    with explain_errors(out, "read", _PURPOSE):
        note = _read_note(out)
    if note is not None and note["recipe"] != recipe_digest:
        raise _in_use_error(out, note)


def upload(folder: Path, out: Remote, *, overwrite: bool, say: Callable[[str], None]) -> None:
    """Upload a complete dataset directory; files of a stopped upload of the same dataset are kept.

    Nothing is sent if the address holds a complete dataset of the same recipe already and `overwrite` is false.

    Args:
        folder: Dataset directory on this machine.
        out: Address to which it is uploaded.
        overwrite: True to replace another dataset, or an upload of one.
        say: Callback that gets lines of text about the progress.

    Raises:
        UserError: The address holds another dataset, or the upload of one, and `overwrite` is false; or it holds files
            that belong to no dataset, or the store fails.
    """
    success = (folder / SUCCESS_FILE).read_bytes()
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    del files[SUCCESS_FILE]
    # Equal recipes may give other bytes, for example with another version of a library; `success` tells them apart.
    upload_id = {"recipe": str(json.loads(success)["recipe"]), "success": hashlib.sha256(success).hexdigest()}
    with explain_errors(out, "written", _PURPOSE):
        if not _claim(out, upload_id, overwrite=overwrite):
            return
        _send(folder, out, {name: files[name] for name in _missing_files(out, files)}, say)
        _remove_all_but(out, {*files, SUCCESS_FILE})
        if missing := _missing_files(out, files):
            raise _upload_error(out / missing[0], "the store lists it with another size, or not at all")
        if not _names_upload(note := _read_note(out), upload_id) and not _is_completed(out, success):
            raise _in_use_error(out, note)
        write_bytes(out / SUCCESS_FILE, success)
        (out / UPLOAD_FILE).unlink(missing_ok=True)


def _claim(out: Remote, upload_id: Mapping[str, str], *, overwrite: bool) -> bool:
    """Write the note of this upload to the address; return False if the address holds the complete dataset already.

    Files of a stopped upload are kept if its note has both digests of this upload. They are removed if only the recipe
    is the same, since the dataset was then prepared again with other bytes. Files of another recipe are removed with
    `overwrite`; without it, the address is refused. With `overwrite` the result is always True.

    Args:
        out: Address of the dataset directory.
        upload_id: Digests of the recipe (`recipe`) and of the content of `_SUCCESS` (`success`), as in the note.
        overwrite: True to replace another dataset, or an upload of one.

    Raises:
        UserError: Another dataset or its upload is there and `overwrite` is false; or files that belong to no dataset.
    """
    digest, note = existing_recipe_digest(out), _read_note(out)
    if digest is None and _names_upload(note, upload_id):
        return True
    if digest == upload_id["recipe"] and not overwrite:
        return False
    if digest is None and note is None:
        try:
            create_text(out / UPLOAD_FILE, _note_text(upload_id))
        except FileExistsError as error:  # Another run was faster.
            if not _names_upload(note := _read_note(out), upload_id):
                raise _in_use_error(out, note) from error
        return True
    if not overwrite and (note is None or note["recipe"] != upload_id["recipe"]):
        raise _in_use_error(out, note)
    refuse_foreign(out, set(names_in(out)) - {UPLOAD_FILE, PROBE_FILE})
    # While old files are still there, the note has an empty `success`, which no upload matches. If this run is stopped
    # here, the next one then removes these files too, instead of keeping them as its own.
    write_text(out / UPLOAD_FILE, _note_text({"recipe": upload_id["recipe"], "success": ""}))
    (out / SUCCESS_FILE).unlink(missing_ok=True)
    _remove_all_but(out, ())
    write_text(out / UPLOAD_FILE, _note_text(upload_id))
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
            reason = error.value if isinstance(error, StoreError) else short_message(error)
            raise _upload_error(out / name, reason) from error

    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            list(pool.map(send, files))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _missing_files(out: Remote, files: Mapping[str, int]) -> list[str]:
    """Return the files that are missing at the address or have another size there."""
    sizes = {entry.name: entry.size for entry in objects_at(out)}
    return [name for name, size in sorted(files.items()) if sizes.get(name) != size]


def _remove_all_but(out: Remote, kept_names: Collection[str]) -> None:
    """Remove files of a dataset that are not in `kept_names`: readers list its folders, and would read old parts."""
    names = [entry.name for entry in objects_at(out) if entry.name.partition("/")[0] in DATASET_NAMES]
    map_concurrently(lambda name: (out / name).unlink(missing_ok=True), set(names).difference(kept_names))


def _note_text(upload_id: Mapping[str, str]) -> str:
    """Return the content of `_UPLOAD`."""
    return json.dumps(
        {**upload_id, "host": socket.gethostname(), "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"}
    )


def _read_note(out: Remote) -> dict[str, str] | None:
    """Return the content of `_UPLOAD`; None if there is no such file, and so no unfinished upload."""
    file = out / UPLOAD_FILE
    try:
        note = json.loads(file.read_text(encoding="utf-8"))
        return {key: str(note[key]) for key in ("recipe", "success", "host", "since")}
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError) as error:
        rule, fix = "it names the upload in progress", "remove it if no upload is running"
        raise UserError(str(file), f"unreadable ({short_message(error)})", rule, fix) from error


def _names_upload(note: Mapping[str, str] | None, upload_id: Mapping[str, str]) -> bool:
    return note is not None and all(note[key] == value for key, value in upload_id.items())


def _is_completed(out: Remote, success: bytes) -> bool:
    """Return True if another run has completed the upload of the same dataset."""
    try:
        return (out / SUCCESS_FILE).read_bytes() == success
    except FileNotFoundError:
        return False


def _upload_error(file: Remote, reason: str) -> UserError:
    return UserError(
        str(file),
        f"could not be uploaded ({reason})",
        "the dataset is complete on this machine, but its address is not a dataset until all files are there",
        "run the same command again, which sends the missing files",
    )


def _in_use_error(out: Remote, note: Mapping[str, str] | None) -> UserError:
    by = "" if note is None else f", by {note['host']} since {note['since']}"
    return UserError(
        str(out),
        f"another dataset has been or is being uploaded there{by}",
        "an address holds one dataset, and it is unknown whether the other run still works",
        f"name another {Option.OUT}, or pass {Option.OVERWRITE} when the other run has ended",
    )
