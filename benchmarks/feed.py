"""Datasets of the reference workload: the tables of a whole world of `tencent-synthetic`, some of its impressions.

A step costs what its batch costs, so that a benchmark needs all rows of the tables and not a billion impressions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.synthetic.files import ParquetLayout
from data_prep.synthetic.prepare import prepare_design
from data_prep.synthetic.tencent import Tencent, TencentPart
from data_prep.synthetic.world import DAYS, PAPER_ROWS, PAPER_USERS, World
from ple_rec.config.base import Split
from ple_rec.config.schema import Task

FULL_USERS = PAPER_USERS
# Row groups of train, at even distances over its days.
_ROW_GROUPS = 16
# Users of valid and test; the statistics read all of their rows.
_EVALUATED_USERS = 2_000
# Largest number of row groups of valid and of test; no more ranks can evaluate.
_EVALUATED_GROUPS = 16

# Features of the user and of the request; the others are of the video, or of its place in the feed.
SHARED = (
    "user_id",
    "age_band",
    "gender",
    "city_tier",
    "city",
    "phone_brand",
    "phone_price",
    "system",
    "user_active_degree",
    "register_band",
    "hour",
    "weekday",
    "tab",
    "network",
    "user_past_plays",
    "user_follows",
    "user_register_days",
)


@dataclass(frozen=True)
class FeedSlice:
    """Design of `data_prep.synthetic` (`Design`): some parts of a `Tencent` dataset of a whole world.

    Args:
        whole: Dataset from which the parts come.
        rows: Smallest number of rows of train, unless the world has fewer.
        impressions: Number of consecutive rows of a request; all of them have the `SHARED` features of the first.
    """

    whole: Tencent
    rows: int
    impressions: int = 1

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Tasks of the whole dataset."""
        return self.whole.tasks

    def recipe(self) -> dict[str, Any]:
        """Return everything that decides the content."""
        return self.whole.recipe() | {"slice": self.rows, "impressions": self.impressions}

    def fields(self) -> Mapping[str, Any]:
        """Return the schema of the whole dataset, whose tables have all rows."""
        return self.whole.fields()

    def slices(self) -> Sequence[str]:
        """Return the columns by which the statistics slice the correlation of labels."""
        return self.whole.slices()

    def names(self) -> Mapping[str, Mapping[int, str]]:
        """Return the names of table rows, by table."""
        return self.whole.names()

    def facts(self) -> Mapping[str, Any]:
        """Return the keys of `stats.json` that say how the data was generated."""
        return self.whole.facts()

    def layout(self) -> ParquetLayout:
        """Return the layout of the parts."""
        return self.whole.layout()

    def parts(self) -> list[TencentPart]:
        """Return two parts: row groups of train at even distances in time, and the last day of some users."""
        world = self.whole.world
        size = min(math.ceil(self.rows / _ROW_GROUPS), self.whole.row_group_rows())
        blocks = [block for block in world.blocks_of_days(range(DAYS - 1), size) if len(block) == size]
        count = min(math.ceil(self.rows / size), len(blocks))
        train = tuple(blocks[i * len(blocks) // count] for i in range(count))
        # Users of the middle of the world are neither the most active nor the least.
        first = max(0, min(world.users // 2, world.users - _EVALUATED_USERS))
        count = min(_EVALUATED_USERS, world.users)
        groups = min(_EVALUATED_GROUPS, count)
        ends = [world.first_of(first + i * count // groups) for i in range(groups + 1)]
        evaluated = tuple(range(begin, end) for begin, end in itertools.pairwise(ends))
        return [TencentPart(0, ("train",), train), TencentPart(0, ("valid", "test"), evaluated)]

    def tables(self, parts: Sequence[Any]) -> Iterator[Iterator[tuple[Split, pa.Table]]]:
        """Return the row groups of each part, in order, each of one split."""
        for part in self.whole.tables(parts):
            yield ((split, _in_requests(table, self.impressions)) for split, table in part)


def _in_requests(table: pa.Table, impressions: int) -> pa.Table:
    rows_N = np.arange(table.num_rows)
    first_N = pa.array(rows_N - rows_N % impressions)
    for name in SHARED if impressions > 1 else ():
        table = table.set_column(table.column_names.index(name), table.schema.field(name), table[name].take(first_N))
    return table


def write_feed(out: Path, users: int, rows: int, impressions: int = 1) -> None:
    """Write a dataset directory whose tables have all rows of a world, and whose train split has few.

    Args:
        out: Directory that is written.
        users: Number of users of the world; `FULL_USERS` is full size.
        rows: Number of rows of train.
        impressions: Number of rows of a request.

    Raises:
        UserError: The world has too few users or too many.
    """
    world = World(round(users * PAPER_ROWS / PAPER_USERS))
    prepare_design(FeedSlice(Tencent(world), rows, impressions), out)
