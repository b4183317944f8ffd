"""Health of the embedding tables: rows that training never changed, norms of rows, concentration of lookups.

Row 0 of a table is shared by all ids that are not in the vocabulary and by missing values. Free rows are those that
have no id yet; they are kept for ids of later days.

Shape suffixes: N rows of a table, R rows of a block, H histogram bins.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor

from ple_rec.config.schema import VOCAB_DIR
from ple_rec.distributed.collectives import run_on_rank_zero
from ple_rec.distributed.table_rows import RowBlock, TableRows
from ple_rec.storage import Location, StoreError
from ple_rec.storage.arrow import open_parquet
from ple_rec.training.context import EvaluationContext
from ple_rec.training.warm_start import WarmStart, table_origins

logger = logging.getLogger(__name__)

# Quantiles of the norms that are reported, in percent.
PERCENTS = (0, 1, 10, 50, 90, 99, 100)
# Up to this number of rows, all norms of a table are gathered, which takes 4 MiB on each rank; larger tables get a
# histogram.
EXACT_ROWS = 1 << 20
# One bin for each value of the leading 16 bits of a non-negative float32: 8 bits of exponent and 7 bits of mantissa.
BINS = 1 << 15
# `top_share` counts the lookups of the most frequent rows, which are one row in this many.
_ROWS_PER_TOP_ROW = 100
# Number of rows of a vocabulary that are read at once.
_VOCABULARY_BATCH = 1 << 16


def table_health(context: EvaluationContext, warm_start: WarmStart | None = None) -> list[dict[str, Any]]:
    """Return the health of every table with the current weights of the model, for `metrics.json` (a collective).

    The result is the same on every rank. The entries of a table:

        table, dim     name of the table, and its number of columns
        rows           number of rows that are not free
        free           number of free rows, if there are any; the other entries leave these rows out
        never_touched  number of rows, without row 0, that still have their initial bits. Rows whose updates were all
                       zero, or were rounded away, count too.
        norms          quantiles of ||w_r|| over all rows, linear between order statistics; null if a norm is not
                       finite. They are exact up to 2^20 rows. For more rows, minimum and maximum are exact, and the
                       other quantiles are within 2^-8 of their value, the same at every number of ranks.
        lookups        number of lookups of the training split, without row 0, from the counts in
                       `vocab/<table>.parquet`; null if this file is missing or damaged
        top_share      share of these lookups in the ceil((rows - 1) / 100) most frequent rows; null if there are none,
                       or if the file is missing or damaged

    Args:
        context: Context of the run.
        warm_start: Checkpoint of another run with the first weights, which records how the tables were initialised;
            None for random weights.
    """
    tables = context.plan.tables
    if not tables:
        return []
    free_rows = {table.name: table.free_rows for table in context.dataset.schema.tables}
    rows_in_use = {t.table: t.rows - len(free_rows[t.table]) for t in tables}
    origins = table_origins(context, warm_start)
    reader = TableRows(context.model, origins, context.ranks.device)
    lookup_counts = [
        run_on_rank_zero(
            lambda: [_lookup_counts(context.dataset.path, table, rows) for table, rows in rows_in_use.items()]
        )
    ]
    dist.broadcast_object_list(lookup_counts, src=0)
    assert lookup_counts[0] is not None
    return [
        {"table": name, "rows": rows_in_use[name], "dim": origin.dim}
        | ({"free": len(free_rows[name])} if free_rows[name] else {})
        | row_health(_without_free_rows(reader.blocks(name), free_rows[name]), rows_in_use[name], context.ranks.device)
        | share
        for (name, origin), share in zip(origins.items(), lookup_counts[0], strict=True)
    ]


def _without_free_rows(blocks: Iterable[RowBlock], free_rows: range) -> Iterator[RowBlock]:
    """Yield the blocks without the free rows; the rows after the free ones get lower numbers."""
    for first_row, square_R, changed_R in blocks:
        before = min(max(free_rows.start - first_row, 0), len(square_R))
        after = min(max(free_rows.stop - first_row, before), len(square_R))
        if before:
            yield RowBlock(first_row, square_R[:before], changed_R[:before])
        if after < len(square_R):
            yield RowBlock(first_row + after - len(free_rows), square_R[after:], changed_R[after:])


def row_health(blocks: Iterable[RowBlock], rows: int, device: torch.device) -> dict[str, Any]:
    """Return `never_touched` and `norms` of a table from the blocks of all ranks (a collective).

    Args:
        blocks: Blocks of rows of the table on this rank.
        rows: Number of rows of the table in the blocks of all ranks.
        device: Device of the blocks.
    """
    norms: _AllNorms | _NormHistogram = _AllNorms(rows, device) if rows <= EXACT_ROWS else _NormHistogram(device)
    untouched = torch.zeros((), dtype=torch.int64, device=device)
    for first_row, square_R, changed_R in blocks:
        norms.add(first_row, square_R.sqrt().float().nan_to_num_(nan=math.inf, posinf=math.inf))
        untouched += (~changed_R[1 if first_row == 0 else 0 :]).sum()
    dist.all_reduce(untouched)
    norm_at = norms.order_statistics()
    return {
        "never_touched": int(untouched),
        "norms": {f"{percent / 100:g}": _quantile(norm_at, rows, percent) for percent in PERCENTS},
    }


class _AllNorms:
    """Norms of all rows, for small tables; a norm that is not finite is stored as infinity, which sorts last."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._norm_N = torch.zeros(rows, device=device)

    def add(self, first_row: int, norm_R: Tensor) -> None:
        self._norm_N[first_row : first_row + len(norm_R)] = norm_R

    def order_statistics(self) -> Callable[[int], float]:
        """Return a function that returns the i-th smallest norm (a collective)."""
        # Each row is on one rank; the other ranks have 0 for it, so the sum is its norm.
        dist.all_reduce(self._norm_N)
        sorted_N = self._norm_N.sort().values.cpu()
        return lambda index: float(sorted_N[index])


class _NormHistogram:
    """Histogram of norms by the leading 16 bits of their float32, 128 bins for each power of 2, and their extremes."""

    def __init__(self, device: torch.device) -> None:
        self._count_H = torch.zeros(BINS, dtype=torch.int64, device=device)
        # Maxima of -norm and of norm, so that one all-reduce combines both.
        self._extremes = torch.tensor([-math.inf, -math.inf], device=device)

    def add(self, first_row: int, norm_R: Tensor) -> None:
        self._count_H += torch.bincount(norm_R.view(torch.int32) >> 16, minlength=BINS)
        self._extremes = torch.maximum(self._extremes, torch.stack([-norm_R.min(), norm_R.max()]))

    def order_statistics(self) -> Callable[[int], float]:
        """Return a function that returns the i-th smallest norm, rounded to the middle of its bin (a collective).

        The first and the last norm are exact, and the others are clamped to them.
        """
        dist.all_reduce(self._count_H)
        dist.all_reduce(self._extremes, op=dist.ReduceOp.MAX)
        end_H = self._count_H.cumsum(0).cpu()
        middle_H = ((torch.arange(BINS, dtype=torch.int32) << 16) + (1 << 15)).view(torch.float32)
        # Norms in the lowest bin are below 2^-133, and count as 0.
        middle_H[0] = 0
        smallest, largest = -float(self._extremes[0]), float(self._extremes[1])

        def norm_at(index: int) -> float:
            if index in (0, int(end_H[-1]) - 1):
                return smallest if index == 0 else largest
            middle = float(middle_H[torch.searchsorted(end_H, index, right=True)])
            # The bin of infinity has no middle.
            return min(max(middle, smallest), largest) if middle < math.inf else math.inf

        return norm_at


def _quantile(norm_at: Callable[[int], float], rows: int, percent: int) -> float | None:
    """Return a quantile, interpolated between the two nearest norms; None if one of them is not finite."""
    index, remainder = divmod((rows - 1) * percent, 100)
    value = norm_at(index)
    if remainder:
        value += (norm_at(index + 1) - value) * (remainder / 100)
    return value if math.isfinite(value) else None


def _lookup_counts(dataset: Location, table: str, rows: int) -> dict[str, Any]:
    """Return `top_share` and `lookups` of a table; both None if its vocabulary is missing or damaged."""
    file = dataset / VOCAB_DIR / f"{table}.parquet"
    unknown = {"top_share": None, "lookups": None}
    if not file.is_file():
        return unknown
    try:
        top, total = concentration(file, -(-(rows - 1) // _ROWS_PER_TOP_ROW))
    except (OSError, StoreError, ValueError, pa.ArrowException) as error:
        # A long run must not fail because of these two numbers, so a damaged vocabulary is only logged.
        logger.info(f"table {table}: the counts of lookups in {file} cannot be read ({' '.join(str(error).split())})")
        return unknown
    return {"top_share": top / total if total else None, "lookups": total}


def concentration(file: Location, top: int) -> tuple[int, int]:
    """Return the numbers of lookups of the `top` most frequent rows and of all rows, from the counts in a vocabulary.

    Args:
        file: File of the vocabulary.
        top: Number of the most frequent rows.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file has no column `count`.
        ArrowException: The file is damaged, or the column has no numbers.
    """
    # The largest counts are kept in ascending order.
    largest_N, total = np.zeros(0, np.int64), 0
    with open_parquet(file) as vocabulary:
        if "count" not in vocabulary.schema_arrow.names:
            raise ValueError(f"its columns are {', '.join(vocabulary.schema_arrow.names)}; there is no 'count'")
        for batch in vocabulary.iter_batches(_VOCABULARY_BATCH, columns=["count"]):
            count_N = batch.column(0).cast(pa.int64()).fill_null(0).to_numpy()
            total += int(count_N.sum())
            if 0 < top == len(largest_N):
                # Data preparation writes counts in descending order, so most batches have no larger counts.
                count_N = count_N[count_N > largest_N[0]]
            if len(count_N):
                merged_N = np.sort(np.concatenate([largest_N, count_N]))
                largest_N = merged_N[max(0, len(merged_N) - top) :].copy()
    return int(largest_N.sum()), total
