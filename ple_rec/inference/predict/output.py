"""The directory of predictions, or its address: Parquet parts, each whole or not there, behind which a call goes on.

    _predict.json        what is predicted, written first: a directory of something else is not written to
    part-00000.parquet   ids, predictions, score; in the order of the input. Its metadata says where the input goes on
    _SUCCESS             JSON: the same as _predict.json, and what was found; written last

Readers of folders of Parquet files skip names with an underscore. Other programs, such as Spark, write
`part-00000.parquet` and `_SUCCESS`, too, so a part is known as ours by its metadata.
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
from ple_rec.inference.model_dir import try_lock
from ple_rec.runs.layout import writing
from ple_rec.storage import Location, explain_errors, make_directory, names_in, put_file, write_text
from ple_rec.storage.arrow import open_ranges

REQUEST, SUCCESS, WORK, LOCK = "_predict.json", "_SUCCESS", "_work", "_lock"
PARTIAL = ".partial"
_PART = re.compile(r"part-[0-9]{5,}\.parquet")
_KEY = b"ple_rec.predict"


@dataclass(frozen=True)
class PartNote:
    """A note in the metadata of a part.

    Args:
        next: Position at which the input goes on behind the part.
        rows: Rows of the part.
        ids: Counts of `IdCounter`, by sparse feature.
        clipped: Number of values at a bound, for each factor that the score uses.
    """

    next: int
    rows: int
    ids: dict[str, list[int]]
    clipped: dict[str, int]

    def metadata(self) -> dict[bytes, str]:
        """Return the note as a Parquet file holds it."""
        return {_KEY: json.dumps(asdict(self))}


def read_part_note(part: Location) -> PartNote | None:
    """Return the note of a part; None where it is not there, or not whole.

    Raises:
        StoreError: It lies in a store that cannot be read.
    """
    footer = _footer(part)
    try:
        note = PartNote(**json.loads((footer.metadata or {})[_KEY])) if footer is not None else None
    except (ValueError, KeyError, TypeError):
        return None
    return note if note is not None and footer is not None and note.rows == footer.num_rows else None


def read_note(file: Location) -> dict[str, Any] | None:
    """Return what `_predict.json` or `_SUCCESS` says; None where it is not there, damaged, or another program's.

    Raises:
        StoreError: It lies in a store that cannot be read.
    """
    try:
        note = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) and "format" in note else None


def parts_in(folder: Location) -> list[str]:
    """Return the names of the files that are named like a part.

    Raises:
        OSError: They cannot be listed.
    """
    return [name for name in names_in(folder) if _PART.fullmatch(name)]


def foreign_file(folder: Location) -> str | None:
    """Return the name of the first file that `ple-rec predict` did not write.

    Raises:
        OSError: The folder cannot be read.
    """
    there = names_in(folder)
    # Looked for afterwards: they are there before any other file of a process that writes at this moment.
    has_note, has_lock = read_note(folder / REQUEST) is not None, (folder / LOCK).is_file()

    def ours(full: str) -> bool:
        name = full.removesuffix(PARTIAL)
        if name in (REQUEST, LOCK):
            return True
        if name == WORK:
            return has_note or has_lock
        if name == SUCCESS:
            return has_note or read_note(folder / full) is not None
        if not _PART.fullmatch(name):
            return False
        if full != name or (footer := _footer(folder / full)) is None:
            return has_note  # without a note, what is not whole may be anybody's
        return _KEY in (footer.metadata or {})

    return next((name for name in there if not ours(name)), None)


def _footer(part: Location) -> Any:
    """Return the footer of a Parquet file; None where it is not whole."""
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
_SHOWN = 4  # differences between two predictions that a message names


class Output:
    """The directory, which `locked_output` opens.

    Args:
        folder: Directory or address of the predictions.
        local: Folder of this machine for what is not whole: the directory itself, or a temporary one.

    Attributes:
        request: Inputs and model of the prediction, known after `begin`.
        done: Notes of the parts that are there, from the first on.
        finished: What `_SUCCESS` says; None where it is not there, or the parts are not those that it says.
    """

    def __init__(self, folder: Location, local: Path) -> None:
        self.folder, self._local = folder, local
        self.request: dict[str, Any] = {}
        self.done: list[PartNote] = []
        self.finished: dict[str, Any] | None = None

    def begin(self, request: Mapping[str, Any], *, overwrite: bool) -> None:
        """Keep what is there of the same, and nothing else.

        Args:
            request: Description of what is predicted: run, checkpoint, input, fusion, shape.
            overwrite: Flag that predictions of something else are removed; those of the same are continued.

        Raises:
            UserError: There are predictions of something else.
        """
        self.request = json.loads(json.dumps(request))
        with _writing(self.folder):
            there = read_note(self.folder / REQUEST)
            other = there != self.request
            if other and not overwrite:
                self._check_nothing_else(there)
            for name in names_in(self.folder):  # the note stays until another takes its place: parts are never without
                if name.endswith(PARTIAL) or (other and name not in (LOCK, WORK, REQUEST)):
                    (self.folder / name).unlink()
            self._write(REQUEST, self.request)
            self.finished = read_note(self.folder / SUCCESS)
            while (note := read_part_note(self.part(len(self.done)))) is not None:
                self.done.append(note)
            self._check_finished()

    def _check_finished(self) -> None:
        if self.finished is not None and not self._is_whole(self.finished):
            said = f"{self.finished.get('parts')} part(s) with {self.finished.get('rows')} rows"
            logger.warning(
                f"{self.folder}: not the {said} that {SUCCESS} says; what is missing or damaged is predicted again"
            )
            self._reopen(self.finished)

    def _is_whole(self, said: Mapping[str, Any]) -> bool:
        """Tell whether the parts that are there are those that `_SUCCESS` says."""
        alone = set(parts_in(self.folder)) == {self.part(i).name for i in range(len(self.done))}
        return alone and said.get("parts") == len(self.done) and said.get("rows") == self._rows

    def _reopen(self, said: Mapping[str, Any]) -> None:
        """Keep the first parts that can be those of `_SUCCESS`, which goes last: this may be cut short."""
        del self.done[said.get("parts", 0) :]
        if len(self.done) == said.get("parts") and self._rows != said.get("rows"):
            self.done.clear()  # one of them is another's, and nothing says which
        self._drop_parts_behind()
        (self.folder / SUCCESS).unlink()
        self.finished = None

    @property
    def _rows(self) -> int:
        return sum(note.rows for note in self.done)

    def _drop_parts_behind(self) -> None:
        kept = {self.part(i).name for i in range(len(self.done))}
        for name in parts_in(self.folder):
            if name not in kept:
                (self.folder / name).unlink()

    def _check_nothing_else(self, there: Mapping[str, Any] | None) -> None:
        if there is not None:
            key = next(key for key in {**there, **self.request} if there.get(key) != self.request.get(key))
            content = f"predictions of another {key} ({_differing(there.get(key), self.request.get(key))})"
        elif parts_in(self.folder):
            content = f"predictions without {REQUEST}, which says of what"
        else:
            return
        rule = "parts of different predictions are not mixed"
        raise UserError(
            str(self.folder), f"holds {content}", rule, f"pass {Option.OVERWRITE}, or give another {Option.OUT}"
        )

    @property
    def work(self) -> Path:
        """Folder for files that are no part of the output."""
        return self._local / WORK

    def part(self, index: int) -> Location:
        """Return the file of a part."""
        return self.folder / f"part-{index:05d}.parquet"

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        file = self.folder / name
        with _writing(file):
            write_text(file, json.dumps(content, indent=1))

    @property
    def next(self) -> int:
        """Position at which the input goes on."""
        return self.done[-1].next if self.done else 0

    @contextmanager
    def writing_part(self, schema: pa.Schema) -> Iterator[PartWriter]:
        """Write the next part; it appears under its name when `PartWriter.finish` has been called.

        Raises:
            UserError: The disk is full or not writable.
        """
        path = self.part(len(self.done))
        partial = self._local / (path.name + PARTIAL)
        writer = PartWriter(partial, schema)
        try:
            yield writer
            if writer.note is not None:
                with _writing(path):
                    put_file(partial, path)
                self.done.append(writer.note)
        finally:
            writer.close()
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `_SUCCESS`, and remove what is no part of the output.

        Raises:
            UserError: The disk is full or not writable.
        """
        shutil.rmtree(self.work, ignore_errors=True)
        with _writing(self.folder):
            self._drop_parts_behind()  # of a call whose first parts were removed since
            self._write(SUCCESS, {**self.request, **summary})


class PartWriter:
    """A part that is being written: rows wait until there are enough for a row group."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._schema = path, schema
        with writing(path):
            self._writer = pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self.note: PartNote | None = None

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        self._waiting.append(table.cast(self._schema))
        self._waiting_rows += len(table)
        if self._waiting_rows >= ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.concat_tables(self._waiting).combine_chunks()
            with writing(self._path):
                self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self._waiting, self._waiting_rows = [], 0

    def finish(self, note: PartNote) -> None:
        """Write the rest of the rows and the note: the part is whole."""
        self._flush()
        with writing(self._path):
            self._writer.add_key_value_metadata(note.metadata())
            self._writer.close()
            with self._path.open("rb") as file:
                os.fsync(file.fileno())
        self.note = note

    def close(self) -> None:
        """Close the file, however far it is."""
        with suppress(OSError):  # the disk is full, which an error has said
            self._writer.close()


@contextmanager
def locked_output(folder: Location) -> Iterator[Output]:
    """Open the directory, which is made where it is not there, and lock it; a store has no locks.

    Raises:
        UserError: It holds something else than predictions, another process writes to it, or it cannot be written.
    """
    with _writing(folder):
        make_directory(folder)
        foreign = foreign_file(folder)
    if foreign is not None:
        rule = "predictions lie in a directory of their own, and other files are never replaced"
        fix = f"give another {Option.OUT}"
        raise UserError(str(folder), f"holds {foreign}, which `ple-rec predict` did not write", rule, fix)
    if not isinstance(folder, Path):
        with tempfile.TemporaryDirectory(prefix="ple-rec-") as local:
            yield Output(folder, Path(local))
        return
    with writing(folder / LOCK):
        lock = try_lock(folder / LOCK)
    if lock is None:
        rule = "one process at a time writes predictions there"
        raise UserError(str(folder), "in use by another process", rule, f"wait for it, or give another {Option.OUT}")
    with lock:
        yield Output(folder, folder)


def _writing(place: Location) -> AbstractContextManager[None]:
    """Turn an error of the file system, or of a store, into a UserError."""
    if isinstance(place, Path):
        return writing(place)
    return explain_errors(place, "written", "predictions are written there")


def _differing(there: Any, now: Any) -> str:
    """Return a few differences, each with its place: `tasks.income.exponent 1.0 -> 1.652`."""
    lines = [f"{place} {old} -> {new}".lstrip() for place, old, new in _leaves("", there, now)]
    more = f", and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return ", ".join(lines[:_SHOWN]) + more


def _leaves(place: str, there: Any, now: Any) -> Iterator[tuple[str, str, str]]:
    if not isinstance(there, dict) or not isinstance(now, dict):
        yield place, _short(there), _short(now)
        return
    for key in {**there, **now}:
        if there.get(key) != now.get(key):
            yield from _leaves(f"{place}.{key}".removeprefix("."), there.get(key), now.get(key))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
