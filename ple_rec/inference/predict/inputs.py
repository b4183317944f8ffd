"""What is predicted: chunks of rows, in the order of the input.

Shape suffixes: N rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pyarrow as pa

from ple_rec.config.schema import DatasetSchema
from ple_rec.data.arrow import IntArray
from ple_rec.data.columns import Columns, Selection
from ple_rec.inference.predict.counts import Missing

_IDS = ("user", "video", "item", "photo", "ad", "request")


@dataclass(frozen=True)
class Chunk:
    """Rows of the input.

    Args:
        columns: Columns that the model reads.
        ids: Columns that are carried along, N rows.
        next_N: Position of the input after each row.
        place: Function that returns the place of a row, for messages.
        missing: Flags of values that are not there; None where the input has none.
    """

    columns: Columns
    ids: pa.Table
    next_N: IntArray
    place: Callable[[int], str]
    missing: Missing | None = None


class Input(Protocol):
    """An input."""

    @property
    def rows(self) -> int:
        """Number of positions."""

    def sections(self, first: int) -> Generator[Generator[Chunk]]:
        """Yield the chunks from a position on, section by section: at least one, which has a chunk.

        The rows of a section begin a batch of their own.

        Raises:
            DataError: Rows cannot be read, or break a rule.
        """

    def identity(self) -> dict[str, Any]:
        """Return what tells this input from others."""

    def check_unchanged(self) -> None:
        """Refuse an input that was replaced while it was read.

        Raises:
            DataError: It was.
        """


def features_only(selection: Selection) -> Selection:
    """Return the features of a selection, without its tasks, weights and groups: predictions need no labels."""
    return replace(selection, tasks=(), sample_weight=None, group=None, slices=())


def default_ids(schema: DatasetSchema) -> list[str]:
    """Return the group column, and the single-valued features that are named like a user, a video or a request."""
    names = {name + end for name in _IDS for end in ("", "_id")}
    single = [feature.name for feature in schema.sparse if not feature.bag and feature.name in names]
    return list(dict.fromkeys([*([schema.group] if schema.group else []), *single]))
