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
from ple_rec.distributed.table_rows import Block, Origin, TableRows
from ple_rec.storage import Location, StoreError
from ple_rec.storage.arrow import open_parquet
from ple_rec.training.context import EvaluationJob
from ple_rec.training.warm_start import Start

logger = logging.getLogger(__name__)

PERCENTS = (0, 1, 10, 50, 90, 99, 100)
EXACT_ROWS = 1 << 20  # of a table, up to which its norms are gathered: 4 MiB a rank
BINS = 1 << 15  # the leading 16 bits of a float32 that is not negative: exponent and 7 bits of mantissa
_TOP = 100  # one row in so many is among the most frequent
_BATCH = 1 << 16  # rows of a vocabulary read at a time


def table_health(job: EvaluationJob, start: Start | None = None) -> list[dict[str, Any]]:
    """What `metrics.json` says of every table, with the weights that the model holds now.

    `rows`: in use. `free`, where there are any: rows that no value has yet, of which nothing else is said.
    `never_touched`: rows, row 0 excluded, that hold their initial values to the bit; also those whose every update was
    rounded away or was zero. `norms`: quantiles of ||w_r|| over all rows, linear between order statistics; null where
    a row that is not finite stands there. They are exact up to 2^20 rows; beyond, minimum and maximum are exact and
    the others within 2^-8 of their value, the same at every number of ranks. `lookups`: of the training split, as
    `vocab/<table>.parquet` counts them, row 0 excluded. `top_share`: the share of them that falls on the
    ceil((rows - 1) / 100) most frequent rows. Both are null where the dataset has no such file.

    A collective; the result is the same on every rank.

    Args:
        job: Of the run.
        start: Where its first weights come from; the initial values are then those of the first run of the chain.
    """
    tables = job.plan.tables
    if not tables:
        return []
    seed, scale = job.config.seed, job.config.embeddings.init_scale
    if start is not None:
        seed, scale = start.seed, start.init_scale
    free = {table.name: table.free for table in job.dataset.schema.tables}
    used = {t.table: t.rows - len(free[t.table]) for t in tables}
    origins = {t.table: Origin(t.table, t.rows, t.dim, seed, scale) for t in tables}
    reader = TableRows(job.model, origins, job.ranks.device)
    shares = [run_on_rank_zero(lambda: [_counted(job.dataset.path, table, rows) for table, rows in used.items()])]
    dist.broadcast_object_list(shares, src=0)
    assert shares[0] is not None
    return [
        {"table": name, "rows": used[name], "dim": origin.dim}
        | ({"free": len(free[name])} if free[name] else {})
        | row_health(_in_use(reader.blocks(name), free[name]), used[name], job.ranks.device)
        | share
        for (name, origin), share in zip(origins.items(), shares[0], strict=True)
    ]


def _in_use(blocks: Iterable[Block], free: range) -> Iterator[Block]:
    """The blocks without the free rows, numbered as if these were not there."""
    for first_row, square_R, moved_R in blocks:
        before = min(max(free.start - first_row, 0), len(square_R))
        after = min(max(free.stop - first_row, before), len(square_R))
        if before:
            yield Block(first_row, square_R[:before], moved_R[:before])
        if after < len(square_R):
            yield Block(first_row + after - len(free), square_R[after:], moved_R[after:])


def row_health(blocks: Iterable[Block], rows: int, device: torch.device) -> dict[str, Any]:
    """`never_touched` and `norms` of a table from the blocks of all ranks (a collective)."""
    norms: _Gathered | _Histogram = _Gathered(rows, device) if rows <= EXACT_ROWS else _Histogram(device)
    kept = torch.zeros((), dtype=torch.int64, device=device)
    for first_row, square_R, moved_R in blocks:
        norms.add(first_row, square_R.sqrt().float().nan_to_num_(nan=math.inf, posinf=math.inf))
        kept += (~moved_R[1 if first_row == 0 else 0 :]).sum()
    dist.all_reduce(kept)
    at = norms.order_statistics()
    return {
        "never_touched": int(kept),
        "norms": {f"{percent / 100:g}": _quantile(at, rows, percent) for percent in PERCENTS},
    }


class _Gathered:
    """Norms of all rows; NaN has become infinity, which sorts last."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._norm_N = torch.zeros(rows, device=device)

    def add(self, first_row: int, norm_R: Tensor) -> None:
        self._norm_N[first_row : first_row + len(norm_R)] = norm_R

    def order_statistics(self) -> Callable[[int], float]:
        """Rank -> norm (a collective)."""
        dist.all_reduce(self._norm_N)  # every row stands on one rank, the others have 0
        sorted_N = self._norm_N.sort().values.cpu()
        return lambda rank: float(sorted_N[rank])


class _Histogram:
    """Norms counted by the leading half of their float32, 128 bins an octave, and the least and largest of them."""

    def __init__(self, device: torch.device) -> None:
        self._count_H = torch.zeros(BINS, dtype=torch.int64, device=device)
        self._extremes = torch.tensor([-math.inf, -math.inf], device=device)  # of -norm and norm

    def add(self, first_row: int, norm_R: Tensor) -> None:
        self._count_H += torch.bincount(norm_R.view(torch.int32) >> 16, minlength=BINS)
        self._extremes = torch.maximum(self._extremes, torch.stack([-norm_R.min(), norm_R.max()]))

    def order_statistics(self) -> Callable[[int], float]:
        """Rank -> middle of its bin, but no less than the least and no more than the largest norm (a collective)."""
        dist.all_reduce(self._count_H)
        dist.all_reduce(self._extremes, op=dist.ReduceOp.MAX)
        end_H = self._count_H.cumsum(0).cpu()
        middle_H = ((torch.arange(BINS, dtype=torch.int32) << 16) + (1 << 15)).view(torch.float32)
        middle_H[0] = 0  # a norm below 2^-133 is none
        least, largest = -float(self._extremes[0]), float(self._extremes[1])

        def at(rank: int) -> float:
            if rank in (0, int(end_H[-1]) - 1):
                return least if rank == 0 else largest
            middle = float(middle_H[torch.searchsorted(end_H, rank, right=True)])
            return min(max(middle, least), largest) if middle < math.inf else math.inf  # infinity's bin has no middle

        return at


def _quantile(at: Callable[[int], float], rows: int, percent: int) -> float | None:
    """Linear between the order statistics beside rank (rows - 1) percent / 100; None where one is not finite."""
    rank, rest = divmod((rows - 1) * percent, 100)
    value = at(rank)
    if rest:
        value += (at(rank + 1) - value) * (rest / 100)
    return value if math.isfinite(value) else None


def _counted(dataset: Location, table: str, rows: int) -> dict[str, Any]:
    """`top_share` and `lookups` of a table; None without a vocabulary, or, with a word about it, with a damaged one."""
    file = dataset / VOCAB_DIR / f"{table}.parquet"
    unknown = {"top_share": None, "lookups": None}
    if not file.is_file():
        return unknown
    try:
        top, total = concentration(file, -(-(rows - 1) // _TOP))
    except (OSError, StoreError, ValueError, pa.ArrowException) as error:
        # A run of days does not end for want of this figure.
        logger.info(
            f"table {table}: {file} does not tell how often rows are looked up ({' '.join(str(error).split())})"
        )
        return unknown
    return {"top_share": top / total if total else None, "lookups": total}


def concentration(file: Location, top: int) -> tuple[int, int]:
    """(lookups of the `top` most frequent rows, lookups of all) by the column `count` of a vocabulary.

    Raises:
        OSError, ValueError, ArrowException: there is no such column of numbers.
    """
    largest_N, total = np.zeros(0, np.int64), 0  # ascending
    with open_parquet(file) as vocabulary:
        if "count" not in vocabulary.schema_arrow.names:
            raise ValueError(f"its columns are {', '.join(vocabulary.schema_arrow.names)}; there is no 'count'")
        for batch in vocabulary.iter_batches(_BATCH, columns=["count"]):
            count_N = batch.column(0).cast(pa.int64()).fill_null(0).to_numpy()
            total += int(count_N.sum())
            if 0 < top == len(largest_N):
                count_N = count_N[count_N > largest_N[0]]  # few, if any: data preparation writes them descending
            if len(count_N):
                merged_N = np.sort(np.concatenate([largest_N, count_N]))
                largest_N = merged_N[max(0, len(merged_N) - top) :].copy()
    return int(largest_N.sum()), total
