"""Statistics of histories: how many events the rows of a split have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.stats.dense import rate
from ple_rec.config.base import Split
from ple_rec.config.schema import history_offsets


def describe(history: str, files: Mapping[Split, Sequence[Path]]) -> dict[Split, dict[str, Any]]:
    """Return the entry `columns.<history>` of `stats.json`.

    Args:
        history: Name of the history.
        files: Parts by split.
    """
    offsets = list(history_offsets(history))
    out: dict[Split, dict[str, Any]] = {}
    for split, parts in files.items():
        rows = events = empty = 0
        for path in parts:
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    begin, end = file.read_row_group(group, offsets, use_threads=False).columns
                    rows += len(end)
                    events += pc.sum(pc.subtract(end, begin)).as_py() or 0
                    empty += pc.sum(pc.equal(end, begin)).as_py() or 0
        out[split] = {"rows": rows, "events": events, "mean_length": rate(events, rows), "empty": empty}
    return out
