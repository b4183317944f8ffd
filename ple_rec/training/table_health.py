"""Health of the embedding tables: rows that training never touched, norms of rows, concentration of lookups.

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
from ple_rec.distributed.table_rows import RowBlock, TableOrigin, TableRows
from ple_rec.storage import Location, StoreError
from ple_rec.storage.arrow import open_parquet
from ple_rec.training.context import EvaluationContext
from ple_rec.training.warm_start import Start

logger = logging.getLogger(__name__)

PERCENTS = (0, 1, 10, 50, 90, 99, 100)
# Norms of tables up to this size are gathered, which takes 4 MiB on each rank; larger tables get a histogram.
EXACT_ROWS = 1 << 20
# One bin for each value of the leading 16 bits of a float32 that is not negative: exponent and 7 bits of mantissa.
BINS = 1 << 15
# `top_share` is that of one row in so many.
_TOP = 100
# Number of rows of a vocabulary that are read at a time.
_BATCH = 1 << 16


def table_health(context: EvaluationContext, start: Start | None = None) -> list[dict[str, Any]]:
    """Return the health of every table with the current weights of the model, for `metrics.json`.

    A collective; the result is the same on every rank. The entries of a table:

        rows           rows in use
        free           rows without a value, if there are any; the other entries leave them out
        never_touched  rows but row 0 that still have their initial bits. Rows whose updates were all zero, or were
                       rounded away, count too.
        norms          quantiles of ||w_r|| over all rows, linear between order statistics; null if a norm is not
                       finite. They are exact up to 2^20 rows. For more rows, minimum and maximum are exact, and the
                       other quantiles are within 2^-8 of their value, the same at every number of ranks.
        lookups        lookups of the training split, without row 0, by the counts of `vocab/<table>.parquet`; null
                       without this file
        top_share      share of the lookups that falls on the ceil((rows - 1) / 100) most frequent rows; null without
                       the file

    Args:
        context: Context of the run.
        start: Checkpoint of another run with the first weights, whose chain of runs determines the initial values;
            None for random ones.
    """
    tables = context.plan.tables
    if not tables:
        return []
    seed, scale = context.config.seed, context.config.embeddings.init_scale
    if start is not None:
        seed, scale = start.seed, start.init_scale
    free = {table.name: table.free for table in context.dataset.schema.tables}
    used = {t.table: t.rows - len(free[t.table]) for t in tables}
    origins = {t.table: TableOrigin(t.table, t.rows, t.dim, seed, scale) for t in tables}
    reader = TableRows(context.model, origins, context.ranks.device)
    shares = [
        run_on_rank_zero(lambda: [_lookup_counts(context.dataset.path, table, rows) for table, rows in used.items()])
    ]
    dist.broadcast_object_list(shares, src=0)
    assert shares[0] is not None
    return [
        {"table": name, "rows": used[name], "dim": origin.dim}
        | ({"free": len(free[name])} if free[name] else {})
        | row_health(_in_use(reader.blocks(name), free[name]), used[name], context.ranks.device)
        | share
        for (name, origin), share in zip(origins.items(), shares[0], strict=True)
    ]


def _in_use(blocks: Iterable[RowBlock], free: range) -> Iterator[RowBlock]:
    """Yield the blocks without the free rows; later rows are renumbered."""
    for first_row, square_R, moved_R in blocks:
        before = min(max(free.start - first_row, 0), len(square_R))
        after = min(max(free.stop - first_row, before), len(square_R))
        if before:
            yield RowBlock(first_row, square_R[:before], moved_R[:before])
        if after < len(square_R):
            yield RowBlock(first_row + after - len(free), square_R[after:], moved_R[after:])


def row_health(blocks: Iterable[RowBlock], rows: int, device: torch.device) -> dict[str, Any]:
    """Return `never_touched` and `norms` of a table from the blocks of all ranks (a collective).

    Args:
        blocks: Blocks of rows on this rank.
        rows: Number of rows of the table over all ranks.
        device: Device of the blocks.
    """
    norms: _AllNorms | _NormHistogram = _AllNorms(rows, device) if rows <= EXACT_ROWS else _NormHistogram(device)
    untouched = torch.zeros((), dtype=torch.int64, device=device)
    for first_row, square_R, moved_R in blocks:
        norms.add(first_row, square_R.sqrt().float().nan_to_num_(nan=math.inf, posinf=math.inf))
        untouched += (~moved_R[1 if first_row == 0 else 0 :]).sum()
    dist.all_reduce(untouched)
    norm_at = norms.order_statistics()
    return {
        "never_touched": int(untouched),
        "norms": {f"{percent / 100:g}": _quantile(norm_at, rows, percent) for percent in PERCENTS},
    }


class _AllNorms:
    """Norms of all rows; infinity stands for NaN, too, and sorts last."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._norm_N = torch.zeros(rows, device=device)

    def add(self, first_row: int, norm_R: Tensor) -> None:
        self._norm_N[first_row : first_row + len(norm_R)] = norm_R

    def order_statistics(self) -> Callable[[int], float]:
        """Return a function from the index in ascending order to the norm (a collective)."""
        # Each row is on one rank, and the other ranks have 0 for it.
        dist.all_reduce(self._norm_N)
        sorted_N = self._norm_N.sort().values.cpu()
        return lambda index: float(sorted_N[index])


class _NormHistogram:
    """Histogram of norms by the leading half of their float32, with 128 bins an octave, and their extremes."""

    def __init__(self, device: torch.device) -> None:
        self._count_H = torch.zeros(BINS, dtype=torch.int64, device=device)
        # Maxima of -norm and of norm, which one all-reduce combines.
        self._extremes = torch.tensor([-math.inf, -math.inf], device=device)

    def add(self, first_row: int, norm_R: Tensor) -> None:
        self._count_H += torch.bincount(norm_R.view(torch.int32) >> 16, minlength=BINS)
        self._extremes = torch.maximum(self._extremes, torch.stack([-norm_R.min(), norm_R.max()]))

    def order_statistics(self) -> Callable[[int], float]:
        """Return a function from the index in ascending order to the middle of its bin (a collective).

        The middle is clamped to the smallest and the largest norm.
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
    """Return `top_share` and `lookups` of a table; None for both without a vocabulary or with a damaged one."""
    file = dataset / VOCAB_DIR / f"{table}.parquet"
    unknown = {"top_share": None, "lookups": None}
    if not file.is_file():
        return unknown
    try:
        top, total = concentration(file, -(-(rows - 1) // _TOP))
    except (OSError, StoreError, ValueError, pa.ArrowException) as error:
        # A long run must not fail because of these two numbers, so a damaged vocabulary is only logged.
        logger.info(
            f"table {table}: {file} does not tell how often rows are looked up ({' '.join(str(error).split())})"
        )
        return unknown
    return {"top_share": top / total if total else None, "lookups": total}


def concentration(file: Location, top: int) -> tuple[int, int]:
    """Return the lookups of the most frequent rows and the lookups of all rows, by the column `count` of a vocabulary.

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
        for batch in vocabulary.iter_batches(_BATCH, columns=["count"]):
            count_N = batch.column(0).cast(pa.int64()).fill_null(0).to_numpy()
            total += int(count_N.sum())
            if 0 < top == len(largest_N):
                # Data preparation writes counts in descending order, so few batches have any larger ones.
                count_N = count_N[count_N > largest_N[0]]
            if len(count_N):
                merged_N = np.sort(np.concatenate([largest_N, count_N]))
                largest_N = merged_N[max(0, len(merged_N) - top) :].copy()
    return int(largest_N.sum()), total
