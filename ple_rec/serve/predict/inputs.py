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
from ple_rec.serve.predict.counts import Missing

_IDS = ("user", "video", "item", "photo", "ad", "request")


@dataclass(frozen=True)
class Chunk:
    """Rows of the input.

    Args:
        columns: That the model reads.
        ids: That are carried along, N rows.
        next_N: Where the input goes on after each row.
        place: Of one of its rows, for messages.
        missing: Which values are not there, where the input tells.
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
        """Positions that it has."""

    def sections(self, first: int) -> Generator[Generator[Chunk]]:
        """The chunks from a position on; a section begins a batch of its own, and there is one, with a chunk, at least.

        Raises:
            DataError: rows that cannot be read, or break a rule.
        """

    def identity(self) -> dict[str, Any]:
        """What tells this input from others."""

    def check_unchanged(self) -> None:
        """Refuse what has been read if it was replaced meanwhile.

        Raises:
            DataError: it was.
        """


def of_inputs(selection: Selection) -> Selection:
    """Of what a run reads, features alone: labels are not needed."""
    return replace(selection, tasks=(), sample_weight=None, group=None, slices=())


def default_ids(schema: DatasetSchema) -> list[str]:
    """The group column, and what is named like a user, video or request among the single-valued features."""
    names = {name + end for name in _IDS for end in ("", "_id")}
    single = [feature.name for feature in schema.sparse if not feature.bag and feature.name in names]
    return list(dict.fromkeys([*([schema.group] if schema.group else []), *single]))
