"""A small dataset whose rows come in requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from ple_rec.config.base import Split
from tests.training.small import write_small

SHARED = ("user", "tags", "age", "bias")  # a single id, a weighted bag, dense features with nulls and without
_COLUMNS = (*SHARED, "tag_weights")


def write_requests(path: Path) -> Path:
    """`write_small`, but of the rows of a request (1 to 9, often cut by the end of a row group) `SHARED` is equal."""
    return write_small(path, edit=repeated)


def repeated(split: Split, table: pa.Table) -> pa.Table:
    """An `edit` of `write_dataset`."""
    rng = np.random.default_rng(len(split))
    lengths = rng.integers(1, 10, table.num_rows)
    begins = np.append(0, np.cumsum(lengths))
    first_N = np.repeat(begins[:-1][begins[:-1] < table.num_rows], lengths[: (begins[:-1] < table.num_rows).sum()])
    rows_N = pa.array(first_N[: table.num_rows])
    for name in _COLUMNS:
        table = table.set_column(table.column_names.index(name), name, table[name].take(rows_N))
    return table
