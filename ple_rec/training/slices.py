"""Metrics by slice: every task's metrics over the rows that share one value of a column.

Shape suffixes: B batch, K tasks, C slice columns, V codes of a column (shown values, missing, any other).
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
from ple_rec.data.dataset import Dataset, read_columns
from ple_rec.data.slice_columns import slice_columns
from ple_rec.data.slices import CodeArray, Slicing, ValueCounts
from ple_rec.metrics import MetricCollection
from ple_rec.metrics.accumulator import all_reduce, rank_and_world

_ROWS_AT_ONCE = 1 << 16
_ROWS_OF_A_CODE = 1 << 12


def find_slicings(dataset: Dataset, split: Split, names: Sequence[str], shown: int) -> tuple[Slicing, ...]:
    """The most frequent values of each column over a split; every rank counts its share (a collective).

    Args:
        dataset: To read.
        split: Of it.
        names: Of the columns.
        shown: Values told apart of each column, at most.

    Returns:
        One for each column, the same on every rank: of two values that are equally frequent, the lesser comes first. It
        is the same at any number of ranks, too, for a column of up to `MOST_COUNTED` values (65,536). Of more, each
        rank forgets the rarest of those it meets, so values whose counts are close may be taken on some numbers of
        ranks and not on others.

    Raises:
        UserError, DataError: what `slice_columns` and reading find.
    """
    columns = slice_columns(dataset, split, names)
    if not columns:
        return ()
    rank, world_size = rank_and_world(None)
    own = [ValueCounts(column) for column in columns]
    for group in dataset.row_groups(split, [])[rank::world_size]:
        rows = read_columns(group, [column.name for column in columns])
        for counts in own:
            counts.add(rows)
    told: list[Any] = [[counts.table for counts in own]]
    if world_size > 1:
        told = [None] * world_size
        dist.all_gather_object(told, [counts.table for counts in own])
    slicings = []
    for c, column in enumerate(columns):
        total = ValueCounts(column)
        for tables in told:
            total.merge(tables[c])
        slicings.append(total.slicing(shown))
    return tuple(slicings)


class _Held(NamedTuple):
    """A batch without its padding; the codes are on the host."""

    codes_BC: CodeArray
    logits_BK: Tensor
    labels_BK: Tensor
    in_space_BK: Tensor
    weight_B: Tensor | None


class SliceMetrics:
    """The metrics of K tasks over the rows of each code of each slice column.

    A row is in one slice of a column, so rows are brought into the order of their codes and cut, and each slice takes
    its own rows alone: the arithmetic on the rows of a column is that of the whole split's metrics, whatever number of
    values it has. Besides, every code costs some calls a cut; they are shared by the rows that are held for it, 65,536
    and at least 4,096 for each code of the largest column. Measured on a CPU with two binary tasks, a column of 12
    values takes 1.3 times what the whole split's metrics take, one of 64 values 1.7 times. The codes are on the host,
    so nothing waits for the device.

    Memory on the device, per rank: the rows that are held, at most 270,336 and a batch; and for each column, where the
    split is small enough for an exact AUC, the rows that the rank reads, 8 bytes (at most twice that) for each binary
    task; above, a histogram of 1 MiB for each binary task and code. A regression takes 1.5 MiB a code. There are at
    most `evaluation.slice_values` + 2 codes.

    Args:
        slicings: One for each column of a batch's `slices_BC`.
        tasks: In the order of the logits.
        device: Of the model.
        rows: Of the split over all ranks.
        exact_limit: Rows of the split up to which AUC is exact.

    Raises:
        DataError: a damaged vocabulary, from which the names of values come.
    """

    def __init__(
        self, slicings: Sequence[Slicing], tasks: Sequence[Task], device: torch.device, *, rows: int, exact_limit: int
    ) -> None:
        exact_limit = exact_limit if rows <= exact_limit else 0
        self.device = device
        self.names = [slicing.column.name for slicing in slicings]
        self.entries = [slicing.entries() for slicing in slicings]
        self.metrics = [
            [MetricCollection(tasks, device, exact_limit=exact_limit) for _ in range(slicing.codes)]
            for slicing in slicings
        ]
        self.rows = [np.zeros(slicing.codes, np.int64) for slicing in slicings]
        self._held: list[_Held] = []
        self._rows_at_once = max(_ROWS_AT_ONCE, _ROWS_OF_A_CODE * max(slicing.codes for slicing in slicings))

    def update(self, batch: Batch, logits_BK: Tensor) -> None:
        """Add a batch without waiting for the device.

        Args:
            batch: On the device, but for its codes.
            logits_BK: Of the batch.
        """
        assert batch.slices_BC is not None
        n = batch.rows
        weight_B = None if batch.weight_B is None else batch.weight_B[:n]
        codes_BC = batch.slices_BC[:n].numpy()
        self._held.append(_Held(codes_BC, logits_BK[:n], batch.labels_BK[:n], batch.in_space_BK[:n], weight_B))
        if sum(len(held.codes_BC) for held in self._held) >= self._rows_at_once:
            self._cut()

    def _cut(self) -> None:
        """Hand the rows that are held to their slices."""
        if not self._held:
            return
        codes, logits, labels, in_space, weights = zip(*self._held, strict=True)
        joined = [torch.cat(tensors) for tensors in (logits, labels, in_space)]
        weight_B = None if weights[0] is None else torch.cat(weights)
        self._held = []
        for rows_V, metrics_V, codes_B in zip(self.rows, self.metrics, np.concatenate(codes).T, strict=True):
            own_V = np.bincount(codes_B, minlength=len(rows_V))
            rows_V += own_V
            order_B, sizes = self._sent(torch.from_numpy(np.argsort(codes_B, kind="stable"))), own_V.tolist()
            cut = [tensor.index_select(0, order_B).split(sizes) for tensor in joined]
            weight = None if weight_B is None else weight_B.index_select(0, order_B).split(sizes)
            for v in own_V.nonzero()[0].tolist():
                metrics_V[v].update(cut[0][v], cut[1][v], cut[2][v], None if weight is None else weight[v])

    def _sent(self, tensor: Tensor) -> Tensor:
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def compute(self) -> list[dict[str, Any]]:
        """Over all ranks, equal on every rank; a collective.

        Returns:
            `[{"column": .., "values": [{"value": .., "samples": .., "tasks": {task: metrics}}, ...]}, ...]`: the shown
            values by descending frequency, then missing ones (`"missing": True`), then all others (`"other": True`),
            each only where it has rows. `samples` counts rows, in a task's space or not; a metric that is undefined on
            a slice is None.
        """
        self._cut()
        local = torch.from_numpy(np.concatenate(self.rows)).to(self.device)
        samples = iter(all_reduce(local, None).tolist())
        results = []
        for name, entries, metrics in zip(self.names, self.entries, self.metrics, strict=True):
            counted = [(entry, next(samples), of_code) for entry, of_code in zip(entries, metrics, strict=True)]
            values = [
                entry | {"samples": count, "tasks": of_code.compute()} for entry, count, of_code in counted if count
            ]
            results.append({"column": name, "values": values})
        return results
