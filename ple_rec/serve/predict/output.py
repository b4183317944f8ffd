"""The directory that is written: Parquet parts, each whole or not there, which a later call goes on behind.

    _predict.json        what is predicted, written first: a directory of something else is not written to
    part-00000.parquet   ids, predictions, score; in the order of the input. Its metadata says where the input goes on
    _SUCCESS             JSON: the same as _predict.json, and what was found; written last

Names with an underscore are no data to readers of folders of Parquet files.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ple_rec.errors import UserError
from ple_rec.train.run_dir import write_json, writing

ASKED, SUCCESS, WORK, LOCK = "_predict.json", "_SUCCESS", "_work", "_lock"
PARTIAL = ".partial"
ROW_GROUP_ROWS = 65_536
_KEY = b"ple_rec.predict"


@dataclass(frozen=True)
class PartNote:
    """What a part's metadata says.

    Args:
        next: Position at which the input goes on behind the part.
        rows: Of the part.
        ids: By sparse feature what `IdCounter` counts.
        clipped: By factor of the score, values that were brought within bounds.
    """

    next: int
    rows: int
    ids: dict[str, list[int]]
    clipped: dict[str, int]


class Output:
    """The directory; see `claimed`.

    Attributes:
        asked: What is predicted, once `begin` was called.
        done: Notes of the parts that are there, from the first on.
        finished: What `_SUCCESS` says; None where it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: dict[str, Any] = {}
        self.done: list[PartNote] = []
        self.finished: dict[str, Any] | None = None

    def begin(self, asked: Mapping[str, Any], *, overwrite: bool) -> None:
        """Keep what is there of the same, and nothing else.

        Args:
            asked: What is predicted: run, checkpoint, input, fusion, shape.
            overwrite: Whether predictions of something else give way; those of the same are gone on with.

        Raises:
            UserError: there are predictions of something else.
        """
        self.asked = json.loads(json.dumps(asked))
        there = _read(self.folder / ASKED)
        other = there != self.asked
        if there is not None and other and not overwrite:
            key = next(key for key in {**there, **self.asked} if there.get(key) != self.asked.get(key))
            raise UserError(
                str(self.folder),
                f"holds predictions of another {key} ({_short(there.get(key))}; now {_short(self.asked.get(key))})",
                "parts of different predictions are not mixed",
                "pass --overwrite, or give another --out",
            )
        with writing(self.folder):
            for path in self.folder.iterdir():
                if path.name.endswith(PARTIAL) or (other and path.name not in (LOCK, WORK)):
                    path.unlink()
        write_json(self.folder / ASKED, self.asked)
        self.finished = _read(self.folder / SUCCESS)
        while (note := _note(self.part(len(self.done)))) is not None:
            self.done.append(note)

    @property
    def work(self) -> Path:
        """For files that are no part of the output."""
        return self.folder / WORK

    def part(self, index: int) -> Path:
        """A part's file."""
        return self.folder / f"part-{index:05d}.parquet"

    @property
    def next(self) -> int:
        """Position at which the input goes on."""
        return self.done[-1].next if self.done else 0

    @contextmanager
    def writing_part(self, schema: pa.Schema) -> Iterator[PartWriter]:
        """Write the next part; it appears under its name when `PartWriter.finish` has been called.

        Raises:
            UserError: the disk is full or not writable.
        """
        path = self.part(len(self.done))
        partial = path.with_name(path.name + PARTIAL)
        writer = PartWriter(partial, schema)
        try:
            yield writer
            if writer.note is not None:
                with writing(path):
                    partial.replace(path)
                self.done.append(writer.note)
        finally:
            writer.close()
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `_SUCCESS`, and remove what is no part of the output.

        Raises:
            UserError: the disk is full or not writable.
        """
        index = len(self.done)
        while self.part(index).exists():  # of a call whose first parts were removed since
            self.part(index).unlink()
            index += 1
        shutil.rmtree(self.work, ignore_errors=True)
        write_json(self.folder / SUCCESS, {**self.asked, **summary})


class PartWriter:
    """A part under way: rows are held until there are enough for a row group."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._schema = path, schema
        with writing(path):
            self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._held: list[pa.Table] = []
        self._held_rows = 0
        self.note: PartNote | None = None

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        self._held.append(table.cast(self._schema))
        self._held_rows += len(table)
        if self._held_rows >= ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            table = pa.concat_tables(self._held).combine_chunks()
            with writing(self._path):
                self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self._held, self._held_rows = [], 0

    def finish(self, note: PartNote) -> None:
        """The part is whole."""
        self._flush()
        with writing(self._path):
            self._writer.add_key_value_metadata({_KEY: json.dumps(asdict(note))})
            self._writer.close()
            with self._path.open("rb") as file:
                os.fsync(file.fileno())
        self.note = note

    def close(self) -> None:
        """Let go of the file, however far it is."""
        with suppress(OSError):  # of a disk that is full, which has been said
            self._writer.close()


@contextmanager
def claimed(folder: Path) -> Iterator[Output]:
    """The directory, locked; it is made where it is not there.

    Raises:
        UserError: it holds something else than predictions, another process writes to it, or it cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        strange = sorted(path.name for path in folder.iterdir() if not _own(path.name))
    if strange:
        rule = "predictions lie in a directory of their own"
        raise UserError(str(folder), f"holds {strange[0]}", rule, "give another --out")
    with writing(folder / LOCK):
        lock = (folder / LOCK).open("a+")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            rule = "one process at a time writes predictions there"
            fix = "wait for it, or give another --out"
            raise UserError(str(folder), "in use by another process", rule, fix) from error
        yield Output(folder)


def _own(name: str) -> bool:
    is_part = name.startswith("part-") and name.endswith((".parquet", PARTIAL))
    return is_part or name.removesuffix(PARTIAL) in (ASKED, SUCCESS, WORK, LOCK)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return found


def _note(file: Path) -> PartNote | None:
    """Of a part that is whole."""
    try:
        metadata = pq.read_metadata(file).metadata or {}
        return PartNote(**json.loads(metadata[_KEY]))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
