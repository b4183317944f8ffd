"""Metrics by slice: metrics of every task over the rows that share one value of a column.

`find_slicings` chooses the values of a column that get a slice of their own: its most frequent ones. All other values
share one slice, and missing values another. Values of a sparse feature that are not in its vocabulary belong to the
missing ones. A code is the number of a slice within its column. `SliceMetrics` computes the metrics of all slices in
one pass over a split.

Shape suffixes: B batch, K tasks, C slice columns, V codes of a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ple_rec.config.base import Split
from ple_rec.config.schema import Task
from ple_rec.data.batch import Batch
from ple_rec.data.dataset import DatasetDirectory, read_columns
from ple_rec.data.slice_columns import slice_columns
from ple_rec.data.slices import CodeArray, Slicing, ValueCounts
from ple_rec.metrics import MetricCollection
from ple_rec.metrics.accumulator import all_reduce, rank_and_world

# Rows of batches are collected until there are `_ROWS_AT_ONCE` of them, or `_ROWS_OF_A_CODE` for each code of the
# column with the most codes if that is more. Then they are sorted by code.
_ROWS_AT_ONCE = 1 << 16
_ROWS_OF_A_CODE = 1 << 12


def find_slicings(
    dataset: DatasetDirectory, split: Split, names: Sequence[str], most_values: int
) -> tuple[Slicing, ...]:
    """Return the slicing of each column by its most frequent values in a split (a collective).

    Each rank counts the values of some row groups.

    Args:
        dataset: Dataset to read.
        split: Split to count.
        names: Names of the columns.
        most_values: Largest number of values of a column that get a slice of their own.

    Returns:
        One slicing for each column, the same on every rank. The smaller of two equally frequent values comes first. The
        number of ranks does not matter for a column of up to `MAX_COUNTED` values (65,536). With more values, each
        rank forgets its rarest ones, so the number of ranks may decide between values whose counts are close.

    Raises:
        UserError: The dataset has no such column, or cannot be sliced by it.
        DataError: The dataset is damaged.
    """
    columns = slice_columns(dataset, split, names)
    if not columns:
        return ()
    rank, world_size = rank_and_world(None)
    own_counts = [ValueCounts(column) for column in columns]
    for group in dataset.row_groups(split, [])[rank::world_size]:
        rows = read_columns(group, [column.name for column in columns])
        for counts in own_counts:
            counts.add(rows)
    tables_by_rank: list[Any] = [[counts.table for counts in own_counts]]
    if world_size > 1:
        tables_by_rank = [None] * world_size
        dist.all_gather_object(tables_by_rank, [counts.table for counts in own_counts])
    slicings = []
    for c, column in enumerate(columns):
        total = ValueCounts(column)
        for tables in tables_by_rank:
            total.merge(tables[c])
        slicings.append(total.slicing(most_values))
    return tuple(slicings)


class _PendingRows(NamedTuple):
    """Rows of a batch without its padding, whose codes are on the host."""

    codes_BC: CodeArray
    logits_BK: Tensor
    labels_BK: Tensor
    in_space_BK: Tensor
    weight_B: Tensor | None


class SliceMetrics:
    """Metrics of K tasks over the rows of each code of each slice column.

    Rows are sorted by their codes and split, so that the metrics of a slice read only its own rows. The arithmetic for
    a column is then that of the metrics of the whole split, for any number of values. Each sort also makes some calls
    for each code. To make few of these calls, rows are sorted in groups of 65,536, or of 4,096 for each code of the
    column with the most codes if that is more. The codes are on the host, so the host does not wait for the device.

    A column has at most `evaluation.slice_values` + 2 codes, which is at most 66. Each rank needs memory on the device
    for the rows that are not yet sorted: a batch, and at most 4,096 * 66 = 270,336 rows. For each column, it also needs
    8 to 16 bytes for each row and binary task if the split is small enough for an exact AUC, else a histogram of 1 MiB
    for each code and binary task. A regression task takes 1.5 MiB for each code.

    Args:
        slicings: Slicings of the columns of a batch's `slices_BC`, in their order.
        tasks: Tasks in the order of the logits.
        device: Device of the model.
        rows: Number of rows of the split over all ranks.
        exact_limit: Number of rows of the split up to which AUC is exact.

    Raises:
        DataError: The vocabulary with the names of the values is damaged.
    """

    def __init__(
        self, slicings: Sequence[Slicing], tasks: Sequence[Task], device: torch.device, *, rows: int, exact_limit: int
    ) -> None:
        exact_limit = exact_limit if rows <= exact_limit else 0
        self.device = device
        self.names = [slicing.column.name for slicing in slicings]
        self.entries = [slicing.entries() for slicing in slicings]
        self.metrics = [
            [MetricCollection(tasks, device, exact_limit=exact_limit) for _ in range(slicing.code_count)]
            for slicing in slicings
        ]
        self.rows = [np.zeros(slicing.code_count, np.int64) for slicing in slicings]
        self._pending: list[_PendingRows] = []
        self._rows_at_once = max(_ROWS_AT_ONCE, _ROWS_OF_A_CODE * max(slicing.code_count for slicing in slicings))

    def update(self, batch: Batch, logits_BK: Tensor) -> None:
        """Add a batch without waiting for the device.

        Args:
            batch: Batch on the device, with its codes on the host.
            logits_BK: Logits of the batch.
        """
        assert batch.slices_BC is not None
        n = batch.rows
        weight_B = None if batch.weight_B is None else batch.weight_B[:n]
        codes_BC = batch.slices_BC[:n].numpy()
        self._pending.append(
            _PendingRows(codes_BC, logits_BK[:n], batch.labels_BK[:n], batch.in_space_BK[:n], weight_B)
        )
        if sum(len(rows.codes_BC) for rows in self._pending) >= self._rows_at_once:
            self._flush()

    def _flush(self) -> None:
        """Update each slice with its pending rows."""
        if not self._pending:
            return
        codes, logits, labels, in_space, weights = zip(*self._pending, strict=True)
        joined = [torch.cat(tensors) for tensors in (logits, labels, in_space)]
        weight_B = None if weights[0] is None else torch.cat(weights)
        self._pending = []
        for rows_V, metrics_V, codes_B in zip(self.rows, self.metrics, np.concatenate(codes).T, strict=True):
            counts_V = np.bincount(codes_B, minlength=len(rows_V))
            rows_V += counts_V
            order_B, sizes = self._to_device(torch.from_numpy(np.argsort(codes_B, kind="stable"))), counts_V.tolist()
            tensors_by_code = [tensor.index_select(0, order_B).split(sizes) for tensor in joined]
            weight = None if weight_B is None else weight_B.index_select(0, order_B).split(sizes)
            for v in counts_V.nonzero()[0].tolist():
                metrics_V[v].update(
                    tensors_by_code[0][v],
                    tensors_by_code[1][v],
                    tensors_by_code[2][v],
                    None if weight is None else weight[v],
                )

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def compute(self) -> list[dict[str, Any]]:
        """Return the metrics over all ranks, equal on every rank (a collective).

        Returns:
            `[{"column": .., "values": [{"value": .., "samples": .., "tasks": {task: metrics}}, ...]}, ...]`: the
            frequent values by descending frequency, then missing values (`"missing": True`, or for a sparse feature
            the value "out of vocabulary or missing"), then all others (`"other": True`). Slices without rows are left
            out. `samples` counts all rows of a slice, also those outside of a task's sample space. A metric that is
            undefined on a slice is None.
        """
        self._flush()
        local = torch.from_numpy(np.concatenate(self.rows)).to(self.device)
        samples = iter(all_reduce(local, None).tolist())
        results = []
        for name, entries, metrics in zip(self.names, self.entries, self.metrics, strict=True):
            slices = [(entry, next(samples), metrics_V) for entry, metrics_V in zip(entries, metrics, strict=True)]
            values = [
                entry | {"samples": count, "tasks": metrics_V.compute()} for entry, count, metrics_V in slices if count
            ]
            results.append({"column": name, "values": values})
        return results
