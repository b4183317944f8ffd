"""Datasets of the reference workload: the data set `tencent-synthetic` with all table rows, but few impressions.

The time of a training step depends on the batch and on the size of the tables, so a benchmark needs tables of full
size, but not a billion impressions. `data_prep.synthetic` generates the data set; its `World` says how many users,
videos and impressions it simulates.

Shape suffix: N rows.
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
# Approximate number of row groups of train, which are spread evenly over its days; more if they would be larger than
# those of the full dataset.
_ROW_GROUPS = 16
# Number of users of valid and test; it is small, since the statistics of the dataset read all of their rows.
_EVALUATED_USERS = 2_000
# Number of row groups of valid and of test, which is also the largest number of ranks that can evaluate.
_EVALUATED_GROUPS = 16

# Features of the user and of the request, which all impressions of a request share.
SHARED_FEATURES = (
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
    """Generator of a dataset (a `Design` of `data_prep.synthetic`) that has a few row groups of a `Tencent` dataset.

    Args:
        world_dataset: Dataset from which the row groups come.
        rows: Number of rows of train, rounded up to whole row groups; fewer if the world has fewer.
        impressions: Number of consecutive rows that form a request; all get the `SHARED_FEATURES` of the first.
    """

    world_dataset: Tencent
    rows: int
    impressions: int = 1

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Tasks of the full dataset."""
        return self.world_dataset.tasks

    def recipe(self) -> dict[str, Any]:
        """Return everything that determines the content."""
        return self.world_dataset.recipe() | {"slice": self.rows, "impressions": self.impressions}

    def schema_fields(self) -> Mapping[str, Any]:
        """Return the schema of the full dataset, whose tables have all rows."""
        return self.world_dataset.schema_fields()

    def slice_columns(self) -> Sequence[str]:
        """Return the columns by which the statistics slice the correlation of labels."""
        return self.world_dataset.slice_columns()

    def raw_values(self) -> Mapping[str, Mapping[int, str]]:
        """Return the raw values of features with few values, by table and row."""
        return self.world_dataset.raw_values()

    def extra_statistics(self) -> Mapping[str, Any]:
        """Return further keys and values for `stats.json`, as the full dataset has them."""
        return self.world_dataset.extra_statistics()

    def layout(self) -> ParquetLayout:
        """Return the layout of the Parquet files."""
        return self.world_dataset.layout()

    def parts(self) -> list[TencentPart]:
        """Return two units of work: one for train, one for valid and test.

        The first has row groups that are spread over the days of train. The second has the impressions of some users on
        the last day; the users are divided into valid and test.
        """
        world = self.world_dataset.world
        size = min(math.ceil(self.rows / _ROW_GROUPS), self.world_dataset.row_group_rows())
        blocks = [block for block in world.blocks_of_days(range(DAYS - 1), size) if len(block) == size]
        count = min(math.ceil(self.rows / size), len(blocks))
        train = tuple(blocks[i * len(blocks) // count] for i in range(count))
        # Users are numbered by activity; those with middle numbers are neither the most nor the least active.
        first = max(0, min(world.users // 2, world.users - _EVALUATED_USERS))
        count = min(_EVALUATED_USERS, world.users)
        groups = min(_EVALUATED_GROUPS, count)
        ends = [world.first_impression(first + i * count // groups) for i in range(groups + 1)]
        evaluated = tuple(range(begin, end) for begin, end in itertools.pairwise(ends))
        return [TencentPart(0, ("train",), train), TencentPart(0, ("valid", "test"), evaluated)]

    def tables(self, parts: Sequence[Any]) -> Iterator[Iterator[tuple[Split, pa.Table]]]:
        """Yield the tables of each unit of work, in order; a table is a row group of one split."""
        for part in self.world_dataset.tables(parts):
            yield ((split, _in_requests(table, self.impressions)) for split, table in part)


def _in_requests(table: pa.Table, impressions: int) -> pa.Table:
    """Return the rows, each with the `SHARED_FEATURES` of the first row of its request."""
    rows_N = np.arange(table.num_rows)
    first_N = pa.array(rows_N - rows_N % impressions)
    for name in SHARED_FEATURES if impressions > 1 else ():
        table = table.set_column(table.column_names.index(name), table.schema.field(name), table[name].take(first_N))
    return table


def write_feed(out: Path, users: int, rows: int, impressions: int = 1) -> None:
    """Write a dataset directory whose tables have all rows of a world, and whose training split has few rows.

    Args:
        out: Directory that is written.
        users: Approximate number of users of the world, which determines the sizes of the tables; `FULL_USERS` is that
            of the PLE paper.
        rows: Number of training rows, rounded up to whole row groups.
        impressions: Number of consecutive rows that form a request.

    Raises:
        UserError: The world has too few users or too many.
    """
    world = World(round(users * PAPER_ROWS / PAPER_USERS))
    prepare_design(FeedSlice(Tencent(world), rows, impressions), out)
