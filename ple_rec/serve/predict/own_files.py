"""What of a directory `ple-rec predict` wrote, and what others did: only the former is ever replaced or removed.

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

ASKED, SUCCESS, WORK, LOCK = "_predict.json", "_SUCCESS", "_work", "_lock"
PARTIAL = ".partial"
_PART = re.compile(r"part-[0-9]{5,}\.parquet")
_KEY = b"ple_rec.predict"


@dataclass(frozen=True)
class PartNote:
    """What a part's metadata says.

    Args:
        next: Position at which the input goes on behind the part.
        rows: Of the part.
        ids: By sparse feature what `IdCounter` counts.
        clipped: Number of values at a bound, for each factor that the score uses.
    """

    next: int
    rows: int
    ids: dict[str, list[int]]
    clipped: dict[str, int]

    def metadata(self) -> dict[bytes, str]:
        """For a Parquet file."""
        return {_KEY: json.dumps(asdict(self))}


def note_of(part: Path) -> PartNote | None:
    """Of a part that is whole."""
    footer = _footer(part)
    try:
        note = PartNote(**json.loads((footer.metadata or {})[_KEY])) if footer is not None else None
    except (ValueError, KeyError, TypeError):
        return None
    return note if note is not None and footer is not None and note.rows == footer.num_rows else None


def told_by(file: Path) -> dict[str, Any] | None:
    """What `_predict.json` or `_SUCCESS` says; None where it is not there, damaged, or another program's."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "format" in found else None


def parts_in(folder: Path) -> list[Path]:
    """Files with a part's name, in any order."""
    return [path for path in folder.iterdir() if _PART.fullmatch(path.name)]


def strange_in(folder: Path) -> str | None:
    """The first file that `ple-rec predict` did not write."""
    there = sorted(folder.iterdir())
    # Looked for afterwards: they are there before any other file of a process that writes at this moment.
    noted, claimed = told_by(folder / ASKED) is not None, (folder / LOCK).exists()

    def ours(path: Path) -> bool:
        name = path.name.removesuffix(PARTIAL)
        if name in (ASKED, LOCK):
            return True
        if name == WORK:
            return noted or claimed
        if name == SUCCESS:
            return noted or told_by(path) is not None
        if not _PART.fullmatch(name):
            return False
        if path.name != name or (footer := _footer(path)) is None:
            return noted  # without a note, what is not whole may be anybody's
        return _KEY in (footer.metadata or {})

    return next((path.name for path in there if not ours(path)), None)


def _footer(part: Path) -> Any:
    """Of a Parquet file; None where it is not whole."""
    try:
        return pq.read_metadata(part)
    except (OSError, ValueError, pa.ArrowException):
        return None
