"""What a source tells the pipeline: its columns and their roles, and the rows of every split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import pyarrow as pa

from ple_rec.config.base import Split
from ple_rec.config.schema import Normaliser, Task

FORMAT_VERSION = 1  # raise it when the same recipe and source would give other bytes


@dataclass(frozen=True)
class SparseRole:
    """A raw column that becomes rows of a table of its own.

    Args:
        name: Feature, Parquet column and table.
        column: The raw column.
        min_count: A value seen fewer times in the training split shares row 0 with the unseen and the missing.
    """

    name: str
    column: str
    min_count: int


@dataclass(frozen=True)
class DenseRole:
    """A raw number that stays a number."""

    name: str
    column: str
    normaliser: Normaliser


@dataclass(frozen=True)
class Recipe:
    """Everything but the rows that decides the bytes of a dataset directory."""

    name: str
    version: int
    source_sha256: str
    sparse: tuple[SparseRole, ...]
    dense: tuple[DenseRole, ...]
    tasks: tuple[Task, ...]
    row_group_rows: int

    def digest(self) -> str:
        """SHA-256 of the recipe: two directories with the same digest have the same content."""
        content = asdict(self) | {
            "format": FORMAT_VERSION,
            "tasks": [task.model_dump(mode="json") for task in self.tasks],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Dropped:
    """Rows that a source left out, and why."""

    split: Split
    rows: int
    reason: str


@dataclass(frozen=True)
class RawSplits:
    """The rows of every split: the raw columns that the roles name, the labels, and `position`, the row order.

    Attributes:
        tables: By split. `position` is an `int64` without repetition inside a split.
        dropped: What the source left out.
    """

    tables: Mapping[Split, pa.Table]
    dropped: tuple[Dropped, ...] = ()
