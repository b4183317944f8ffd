"""Directory of predictions on a disk or in a store, made of Parquet files (parts).

A part gets its name when it is complete. If a call is interrupted, a later call keeps the complete parts and continues
after them.

    _predict.json        request as JSON: run, checkpoint, input, fusion, and options that change the output. It is
                         written first, so that a call with another request does not add parts to the directory.
    part-00000.parquet   ids, predictions and score, in the order of the input; its metadata (`PartNote`) has the
                         position of the input at which the next part begins
    _SUCCESS             request and summary as JSON, written last
    _lock                locked by the call that writes to a directory on a disk
    *.partial, _work     incomplete part and temporary files of a call

Readers of folders of Parquet files skip names that begin with an underscore. Other programs, such as Spark, also write
`part-00000.parquet` and `_SUCCESS`, so the metadata tells whether a part is from `ple-rec predict`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ple_rec.errors import Option, UserError
from ple_rec.inference.publish import try_lock
from ple_rec.runs.layout import explain_write_errors
from ple_rec.storage import Location, explain_errors, make_directory, names_in, put_file, write_text
from ple_rec.storage.arrow import open_ranges

REQUEST, SUCCESS, WORK, LOCK = "_predict.json", "_SUCCESS", "_work", "_lock"
PARTIAL = ".partial"
_PART = re.compile(r"part-[0-9]{5,}\.parquet")
_METADATA_KEY = b"ple_rec.predict"


@dataclass(frozen=True)
class PartNote:
    """Note in the metadata of a part.

    Args:
        next: Position of the first row of the input after the part.
        rows: Number of rows of the part.
        ids: Numbers of all ids, of ids without a table row of their own and of missing ids, by sparse feature.
        clipped: Number of rows in which a factor of the score is at one of its bounds, by factor.
    """

    next: int
    rows: int
    ids: dict[str, list[int]]
    clipped: dict[str, int]

    def metadata(self) -> dict[bytes, str]:
        """Return the note as metadata of a Parquet file."""
        return {_METADATA_KEY: json.dumps(asdict(self))}


def read_part_note(part: Location) -> PartNote | None:
    """Return the note of a part; None if the part is missing or incomplete.

    Raises:
        StoreError: The part is in a store that cannot be read.
    """
    footer = _footer(part)
    try:
        note = PartNote(**json.loads((footer.metadata or {})[_METADATA_KEY])) if footer is not None else None
    except (ValueError, KeyError, TypeError):
        return None
    return note if note is not None and footer is not None and note.rows == footer.num_rows else None


def read_record(file: Location) -> dict[str, Any] | None:
    """Return the content of `_predict.json` or `_SUCCESS`; None if it is missing, unreadable or from another program.

    Raises:
        StoreError: The file is in a store that cannot be read.
    """
    try:
        note = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) and "format" in note else None


def parts_in(folder: Location) -> list[str]:
    """Return the sorted names in a folder that have the form of a part's name; other programs may have written them.

    Raises:
        OSError: The folder cannot be listed.
        StoreError: The store cannot be listed.
    """
    return [name for name in names_in(folder) if _PART.fullmatch(name)]


def foreign_file(folder: Location) -> str | None:
    """Return the name of the first file in a folder that `ple-rec predict` did not write; None if there is none.

    Raises:
        OSError: The folder cannot be read.
        StoreError: The store cannot be read.
    """
    names = names_in(folder)
    # Another process may be writing. It writes request and lock before any part, so they are read after the names.
    has_request, has_lock = read_record(folder / REQUEST) is not None, (folder / LOCK).is_file()

    def is_ours(file_name: str) -> bool:
        name = file_name.removesuffix(PARTIAL)
        if name in (REQUEST, LOCK):
            return True
        if name == WORK:
            return has_request or has_lock
        if name == SUCCESS:
            return has_request or read_record(folder / file_name) is not None
        if not _PART.fullmatch(name):
            return False
        if file_name != name or (footer := _footer(folder / file_name)) is None:
            # An incomplete file has no metadata, so without `_predict.json` it may be from any program.
            return has_request
        return _METADATA_KEY in (footer.metadata or {})

    return next((name for name in names if not is_ours(name)), None)


def _footer(part: Location) -> Any:
    """Return the footer of a Parquet file; None if the file is missing or incomplete."""
    try:
        file = part if isinstance(part, Path) else open_ranges(part)
    except FileNotFoundError:
        return None
    try:
        return pq.read_metadata(file)
    except (OSError, ValueError, pa.ArrowException):
        return None


logger = logging.getLogger(__name__)

ROW_GROUP_ROWS = 65_536
# Largest number of differences between two requests that a message names.
_MAX_SHOWN = 4


class Output:
    """Directory of predictions. `locked_output` opens it, and `begin` reads which parts are complete.

    Args:
        folder: Directory or address of the predictions.
        local: Folder of this machine for incomplete parts: the directory itself, or a temporary one.

    Attributes:
        request: Inputs and model of the prediction, set by `begin`.
        complete_parts: Notes of the complete parts, in their order.
        success_record: Content of `_SUCCESS`; None if it is missing, or does not fit the parts.
    """

    def __init__(self, folder: Location, local: Path) -> None:
        self.folder, self._local = folder, local
        self.request: dict[str, Any] = {}
        self.complete_parts: list[PartNote] = []
        self.success_record: dict[str, Any] | None = None

    def begin(self, request: Mapping[str, Any], *, overwrite: bool) -> None:
        """Continue the predictions of this request, or begin them.

        Args:
            request: Description of the prediction as JSON values, the content of `_predict.json`.
            overwrite: True to remove predictions of another request; those of this request are continued anyway.

        Raises:
            UserError: The directory has predictions of another request and `overwrite` is False, or it cannot be
                written.
        """
        self.request = json.loads(json.dumps(request))
        with _explain_write_errors(self.folder):
            earlier = read_record(self.folder / REQUEST)
            is_other = earlier != self.request
            if is_other and not overwrite:
                self._check_no_predictions(earlier)
            # The old request stays until the new one replaces it, so parts are never without a request.
            for name in names_in(self.folder):
                if name.endswith(PARTIAL) or (is_other and name not in (LOCK, WORK, REQUEST)):
                    (self.folder / name).unlink()
            self._write(REQUEST, self.request)
            self.success_record = read_record(self.folder / SUCCESS)
            while (note := read_part_note(self.part(len(self.complete_parts)))) is not None:
                self.complete_parts.append(note)
            self._check_success_record()

    def _check_success_record(self) -> None:
        """Remove `_SUCCESS`, and parts that cannot belong to it, if it does not fit the complete parts."""
        if self.success_record is not None and not self._fits_parts(self.success_record):
            expected = f"{self.success_record.get('parts')} part(s) with {self.success_record.get('rows')} rows"
            logger.warning(
                f"{self.folder}: does not have the {expected} of {SUCCESS}; "
                "missing or damaged parts are predicted again"
            )
            self._discard_mismatched_parts(self.success_record)

    def _fits_parts(self, summary: Mapping[str, Any]) -> bool:
        """Return True if the parts are those that `_SUCCESS` lists."""
        no_others = set(parts_in(self.folder)) == {self.part(i).name for i in range(len(self.complete_parts))}
        return no_others and summary.get("parts") == len(self.complete_parts) and summary.get("rows") == self._rows

    def _discard_mismatched_parts(self, summary: Mapping[str, Any]) -> None:
        """Remove the parts that cannot belong to `_SUCCESS`, and `_SUCCESS` itself.

        `_SUCCESS` is removed last, so if the process is killed here, the next call finds the mismatch again.
        """
        del self.complete_parts[summary.get("parts", 0) :]
        if len(self.complete_parts) == summary.get("parts") and self._rows != summary.get("rows"):
            # Some part is from another prediction, but nothing shows which.
            self.complete_parts.clear()
        self._remove_later_parts()
        (self.folder / SUCCESS).unlink()
        self.success_record = None

    @property
    def _rows(self) -> int:
        """Number of rows of the complete parts."""
        return sum(note.rows for note in self.complete_parts)

    def _remove_later_parts(self) -> None:
        done = {self.part(i).name for i in range(len(self.complete_parts))}
        for name in parts_in(self.folder):
            if name not in done:
                (self.folder / name).unlink()

    def _check_no_predictions(self, earlier: Mapping[str, Any] | None) -> None:
        """Refuse a directory with predictions of another or of an unknown request."""
        if earlier is not None:
            key = next(key for key in {**earlier, **self.request} if earlier.get(key) != self.request.get(key))
            content = f"predictions of another {key} ({_differences(earlier.get(key), self.request.get(key))})"
        elif parts_in(self.folder):
            content = f"predictions without {REQUEST}, so their run and input are unknown"
        else:
            return
        rule = "a directory has the predictions of one request"
        raise UserError(
            str(self.folder), f"holds {content}", rule, f"pass {Option.OVERWRITE}, or give another {Option.OUT}"
        )

    @property
    def work(self) -> Path:
        """Folder for temporary files."""
        return self._local / WORK

    def part(self, index: int) -> Location:
        """Return the file of the part with an index from 0."""
        return self.folder / f"part-{index:05d}.parquet"

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        file = self.folder / name
        with _explain_write_errors(file):
            write_text(file, json.dumps(content, indent=1))

    @property
    def next_position(self) -> int:
        """Position of the first row of the input after the complete parts."""
        return self.complete_parts[-1].next if self.complete_parts else 0

    @contextmanager
    def writing_part(self, schema: pa.Schema) -> Iterator[PartWriter]:
        """Yield a writer of the next part; the part gets its name at the end if `PartWriter.finish` was called.

        Args:
            schema: Schema of the output.

        Raises:
            UserError: The disk is full or not writable.
        """
        path = self.part(len(self.complete_parts))
        partial = self._local / (path.name + PARTIAL)
        writer = PartWriter(partial, schema)
        try:
            yield writer
            if writer.note is not None:
                with _explain_write_errors(path):
                    put_file(partial, path)
                self.complete_parts.append(writer.note)
        finally:
            writer.close()
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `_SUCCESS`, and remove all files that do not belong to the output.

        Args:
            summary: Summary of the prediction.

        Raises:
            UserError: The disk is full or not writable.
        """
        shutil.rmtree(self.work, ignore_errors=True)
        with _explain_write_errors(self.folder):
            # If somebody has removed a part, parts after it remain of an earlier call.
            self._remove_later_parts()
            self._write(SUCCESS, {**self.request, **summary})


class PartWriter:
    """Writer of a part, which collects rows until they fill a row group.

    Args:
        path: File to write.
        schema: Schema of the output.

    Attributes:
        note: Note of the part; None until `finish` is called.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._schema = path, schema
        with explain_write_errors(path):
            self._writer = pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self.note: PartNote | None = None

    def write(self, table: pa.Table) -> None:
        """Append rows."""
        self._pending.append(table.cast(self._schema))
        self._pending_rows += len(table)
        if self._pending_rows >= ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            table = pa.concat_tables(self._pending).combine_chunks()
            with explain_write_errors(self._path):
                self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self._pending, self._pending_rows = [], 0

    def finish(self, note: PartNote) -> None:
        """Complete the part with the remaining rows and its note."""
        self._flush()
        with explain_write_errors(self._path):
            self._writer.add_key_value_metadata(note.metadata())
            self._writer.close()
            with self._path.open("rb") as file:
                os.fsync(file.fileno())
        self.note = note

    def close(self) -> None:
        """Close the file, complete or not."""
        # `_flush` has raised the error of a full disk already.
        with suppress(OSError):
            self._writer.close()


@contextmanager
def locked_output(folder: Location) -> Iterator[Output]:
    """Yield the output in a directory, which is created if it is missing and locked; one in a store has no lock.

    Raises:
        UserError: The directory has files of other programs, another process writes to it, or it cannot be written.
    """
    with _explain_write_errors(folder):
        make_directory(folder)
        foreign = foreign_file(folder)
    if foreign is not None:
        rule = "predictions have a directory of their own, and other files are never replaced"
        fix = f"give another {Option.OUT}"
        raise UserError(str(folder), f"holds {foreign}, which `ple-rec predict` did not write", rule, fix)
    if not isinstance(folder, Path):
        with tempfile.TemporaryDirectory(prefix="ple-rec-") as local:
            yield Output(folder, Path(local))
        return
    with explain_write_errors(folder / LOCK):
        lock = try_lock(folder / LOCK)
    if lock is None:
        rule = "one process at a time writes predictions there"
        raise UserError(str(folder), "is in use by another process", rule, f"wait for it, or give another {Option.OUT}")
    with lock:
        yield Output(folder, folder)


def _explain_write_errors(place: Location) -> AbstractContextManager[None]:
    """Return a context that turns an error of the file system or of a store into a UserError."""
    if isinstance(place, Path):
        return explain_write_errors(place)
    return explain_errors(place, "written", "predictions are written there")


def _differences(earlier: Any, now: Any) -> str:
    """Return the first differences between two JSON values, for example `tasks.income.exponent 1.0 -> 1.652`."""
    lines = [f"{place} {old} -> {new}".lstrip() for place, old, new in _leaves("", earlier, now)]
    more = f", and {len(lines) - _MAX_SHOWN} more" if len(lines) > _MAX_SHOWN else ""
    return ", ".join(lines[:_MAX_SHOWN]) + more


def _leaves(place: str, earlier: Any, now: Any) -> Iterator[tuple[str, str, str]]:
    if not isinstance(earlier, dict) or not isinstance(now, dict):
        yield place, _short(earlier), _short(now)
        return
    for key in {**earlier, **now}:
        if earlier.get(key) != now.get(key):
            yield from _leaves(f"{place}.{key}".removeprefix("."), earlier.get(key), now.get(key))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
