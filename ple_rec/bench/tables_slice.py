"""A slice of `tencent-synthetic`: the tables of a whole world, and a few row groups of its impressions.

A step costs what its batch costs, so that a benchmark of tables needs their rows and not a billion impressions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.synthetic.files import Layout
from data_prep.synthetic.prepare import prepare_design
from data_prep.synthetic.tencent import Part, Tencent
from data_prep.synthetic.world import DAYS, PAPER_ROWS, PAPER_USERS, World
from ple_rec.config.base import Split
from ple_rec.config.schema import Task
from ple_rec.errors import UserError

FULL_USERS = PAPER_USERS
_ROW_GROUPS = 16  # of train, spread over its days
_EVALUATED_USERS = 2_000  # of valid and test, which the statistics read
_EVALUATED_GROUPS = 16  # row groups of each of them, at most: no more ranks can evaluate


def world_of(users: int, flag: str = "--rows") -> World:
    """The world of so many users, asked for by `flag`, which has as many impressions a user as that of full size.

    Raises:
        UserError: too few or too many.
    """
    try:
        return World(round(users * PAPER_ROWS / PAPER_USERS))
    except UserError as error:
        raise UserError(
            flag,
            f"got {users:,} user rows, a feed of {users * PAPER_ROWS // PAPER_USERS:,} impressions",
            error.rule,
            f"ask for {FULL_USERS:,}, which is full size, or for another number in that range",
        ) from error


@dataclass(frozen=True)
class Slice:
    """A design of `data_prep.synthetic` (`Design`): `Tencent` of a world, of which only some parts are written.

    Args:
        whole: The dataset that it is of.
        rows: Of train, at least, unless the world has fewer.
        evaluated: Users whose last day is valid and test, at most.
    """

    whole: Tencent
    rows: int
    evaluated: int = _EVALUATED_USERS

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Those of the whole."""
        return self.whole.tasks

    def recipe(self) -> dict[str, Any]:
        """Everything that decides the content."""
        return self.whole.recipe() | {"slice": self.rows, "evaluated": self.evaluated}

    def fields(self) -> Mapping[str, Any]:
        """The schema of the whole, its tables above all."""
        return self.whole.fields()

    def slices(self) -> Sequence[str]:
        """Columns by whose values the statistics relate the labels."""
        return self.whole.slices()

    def names(self) -> Mapping[str, Mapping[int, str]]:
        """What rows mean, by table."""
        return self.whole.names()

    def facts(self) -> Mapping[str, Any]:
        """Keys of `stats.json` that tell how the data was made."""
        return self.whole.facts()

    def layout(self) -> Layout:
        """Of the parts."""
        return self.whole.layout()

    def parts(self) -> list[Part]:
        """Two: row groups of train at even distances in time, and the last day of some users for valid and test."""
        world = self.whole.world
        size = min(math.ceil(self.rows / _ROW_GROUPS), self.whole.row_group_rows())
        blocks = [block for block in world.blocks_of_days(range(DAYS - 1), size) if len(block) == size]
        count = min(math.ceil(self.rows / size), len(blocks))
        train = tuple(blocks[i * len(blocks) // count] for i in range(count))
        # Neither the most active users nor the least, where so few are asked for.
        first = max(0, min(world.users // 2, world.users - self.evaluated))
        count = min(self.evaluated, world.users)
        groups = min(_EVALUATED_GROUPS, count)
        ends = [world.first_of(first + i * count // groups) for i in range(groups + 1)]
        evaluated = tuple(range(begin, end) for begin, end in itertools.pairwise(ends))
        return [Part(0, ("train",), train), Part(0, ("valid", "test"), evaluated)]

    def tables(self, parts: Sequence[Any]) -> Iterator[Iterator[tuple[Split, pa.Table]]]:
        """The row groups of each part, in order, each of one split."""
        return self.whole.tables(parts)


def write_slice(out: Path, users: int, rows: int, evaluated: int = _EVALUATED_USERS) -> None:
    """Write a dataset directory: tables of `users` user rows and the video rows that go with them, `rows` of train.

    Args:
        out: The directory.
        users: Of the world.
        rows: Of train.
        evaluated: Users of valid and test, at most.

    Raises:
        UserError: too few users or too many.
        DataError: the disk is full.
    """
    prepare_design(Slice(Tencent(world_of(users)), rows, evaluated), out)
