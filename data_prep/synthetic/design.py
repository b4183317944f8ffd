"""What makes a dataset directory of a generator: columns, parts that can be made in any order, and a name for both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

from data_prep.synthetic.files import Layout
from ple_rec.config.base import Split
from ple_rec.config.schema import Task


class Design(Protocol):
    """A synthetic dataset; it is pickled to the processes that make its parts."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The ground truth of task `t` is the column `truth_<t>`."""

    def recipe(self) -> dict[str, Any]:
        """Everything that decides the content."""

    def fields(self) -> Mapping[str, Any]:
        """Fields of `DatasetSchema`, without `version`, `fingerprint` and `splits`."""

    def slices(self) -> Sequence[str]:
        """Columns by whose values the statistics relate the labels."""

    def names(self) -> Mapping[str, Mapping[int, str]]:
        """What rows mean, by table."""

    def facts(self) -> Mapping[str, Any]:
        """Keys of `stats.json` that tell how the data was made."""

    def layout(self) -> Layout:
        """Of the parts, without metadata."""

    def parts(self) -> Sequence[Any]:
        """Of the dataset; each has `index`, its number among the parts of the same splits, and `splits`."""

    def tables(self, parts: Sequence[Any]) -> Iterator[Iterator[tuple[Split, pa.Table]]]:
        """The row groups of each part, in order, each of one split."""
