"""A slice of `tencent-synthetic` whose impressions come in requests of one size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.synthetic.prepare import prepare_design
from data_prep.synthetic.tencent import Tencent
from ple_rec.bench.tables_slice import Slice, world_of
from ple_rec.config.base import Split

_EVALUATED = 200  # users of valid and test, which the statistics read

# Of the user and of the request; the others are of the video, or of its place in the feed.
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
class InRequests(Slice):
    """A slice in which so many rows after one another have `SHARED` of the first of them.

    Args:
        impressions: Of a request.
    """

    impressions: int = 1

    def recipe(self) -> dict[str, Any]:
        """Everything that decides the content."""
        return super().recipe() | {"impressions": self.impressions}

    def tables(self, parts: Sequence[Any]) -> Iterator[Iterator[tuple[Split, pa.Table]]]:
        """The row groups of each part, in order, each of one split."""
        for part in super().tables(parts):
            yield ((split, repeated(table, self.impressions)) for split, table in part)


def repeated(table: pa.Table, impressions: int) -> pa.Table:
    """A table in which `SHARED` of each `impressions` rows is that of the first of them."""
    rows_N = np.arange(table.num_rows)
    first_N = pa.array(rows_N - rows_N % impressions)
    for name in SHARED:
        table = table.set_column(table.column_names.index(name), table.schema.field(name), table[name].take(first_N))
    return table


def write_requests(out: Path, users: int, rows: int, impressions: int) -> None:
    """Write a dataset directory.

    Args:
        out: The directory.
        users: Rows of the table of users.
        rows: Of train, at least.
        impressions: Of a request.

    Raises:
        DataError: the disk is full.
    """
    prepare_design(InRequests(Tencent(world_of(users)), rows, _EVALUATED, impressions), out)
