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


def read_part_note(part: Path) -> PartNote | None:
    """Return the note of a part; None where it is not there, or not whole."""
    footer = _footer(part)
    try:
        note = PartNote(**json.loads((footer.metadata or {})[_KEY])) if footer is not None else None
    except (ValueError, KeyError, TypeError):
        return None
    return note if note is not None and footer is not None and note.rows == footer.num_rows else None


def read_note(file: Path) -> dict[str, Any] | None:
    """Return what `_predict.json` or `_SUCCESS` says; None where it is not there, damaged, or another program's."""
    try:
        note = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) and "format" in note else None


def parts_in(folder: Path) -> list[Path]:
    """Return the files with a part's name, in any order."""
    return [path for path in folder.iterdir() if _PART.fullmatch(path.name)]


def foreign_file(folder: Path) -> str | None:
    """Return the name of the first file that `ple-rec predict` did not write."""
    there = sorted(folder.iterdir())
    # Looked for afterwards: they are there before any other file of a process that writes at this moment.
    has_note, has_lock = read_note(folder / REQUEST) is not None, (folder / LOCK).exists()

    def ours(path: Path) -> bool:
        name = path.name.removesuffix(PARTIAL)
        if name in (REQUEST, LOCK):
            return True
        if name == WORK:
            return has_note or has_lock
        if name == SUCCESS:
            return has_note or read_note(path) is not None
        if not _PART.fullmatch(name):
            return False
        if path.name != name or (footer := _footer(path)) is None:
            return has_note  # without a note, what is not whole may be anybody's
        return _KEY in (footer.metadata or {})

    return next((path.name for path in there if not ours(path)), None)


def _footer(part: Path) -> Any:
    """Return the footer of a Parquet file; None where it is not whole."""
    try:
        return pq.read_metadata(part)
    except (OSError, ValueError, pa.ArrowException):
        return None
