"""The files of `ple-rec predict` in a directory, told from those of others: only the former are replaced or removed.

`part-00000.parquet` and `_SUCCESS` are names that Spark, the preparation of a dataset and others give their files too,
so a part is ours by its metadata.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ple_rec.storage import Location, names_in
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
