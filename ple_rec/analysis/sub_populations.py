"""Gates by the values of a column: whether a gate weights experts otherwise for, say, auto-play than for clicks.

Over the test split, of the best checkpoint: the mean of every A_oe over the rows of each value, and how far that is
from the mean over all rows, by `jensen_shannon`.

Shape suffixes: B batch, O outputs, E experts, V codes of a column (shown values, missing, any other).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ple_rec.analysis.utilisation import GATED, jensen_shannon
from ple_rec.data.batch import Batch
from ple_rec.data.slices import Slicing
from ple_rec.modules.routing import GateLabels


@dataclass(frozen=True)
class Reaction:
    """One gate over the rows of one value.

    Args:
        level: From 1.
        output: Whose gate it is.
        experts: That it reads.
        mean: Their mean weights over the rows of the value.
        whole: The same over all rows.
        distance: Between the two.
    """

    level: int
    output: str
    experts: tuple[str, ...]
    mean: tuple[float, ...]
    whole: tuple[float, ...]
    distance: float | None


@dataclass(frozen=True)
class Value:
    """Rows that share one value of a column.

    Args:
        entry: What the value is, as of a slice: `value`, and `missing` or `other`.
        rows: How many.
        gates: Of the model, bottom level first.
    """

    entry: dict[str, Any]
    rows: int
    gates: tuple[Reaction, ...]


@dataclass(frozen=True)
class SubPopulations:
    """The values of one column, as `evaluation.slices` tells them apart."""

    column: str
    values: tuple[Value, ...]


class GatesByValue:
    """Sums of the gates over the rows of each value of each column.

    Args:
        legends: One per A that the model gives; those without gates are left out.
        slicings: One for each column of a batch's `slices_BC`.
    """

    def __init__(self, legends: Sequence[GateLabels], slicings: Sequence[Slicing]) -> None:
        self._legends = {i: legend for i, legend in enumerate(legends) if legend.mixing == GATED}
        self._slicings = list(slicings)
        self._rows = [torch.zeros(slicing.codes, dtype=torch.int64) for slicing in slicings]
        self._sums = [
            {
                i: torch.zeros(slicing.codes, len(legend.outputs), len(legend.experts), dtype=torch.float64)
                for i, legend in self._legends.items()
            }
            for slicing in slicings
        ]

    def update(self, batch: Batch, gates: Sequence[Tensor]) -> None:
        """Add a batch's A_BOE, one per legend, without its padding."""
        if batch.slices_BC is None:
            return
        n = batch.rows
        real = {i: gates[i][:n].double().cpu() for i in self._legends}
        for column, (rows_V, sums) in enumerate(zip(self._rows, self._sums, strict=True)):
            codes_B = batch.slices_BC[:n, column].long()
            rows_V += torch.bincount(codes_B, minlength=len(rows_V))
            for i, sums_VOE in sums.items():
                sums_VOE.index_add_(0, codes_B, real[i])

    def compute(self) -> tuple[SubPopulations, ...]:
        """Of each column the values that have rows.

        Raises:
            DataError: a damaged vocabulary, from which the names of values come.
        """
        return tuple(self._column(column) for column in range(len(self._slicings)))

    def _column(self, column: int) -> SubPopulations:
        slicing, rows_V, sums = self._slicings[column], self._rows[column], self._sums[column]
        total = int(rows_V.sum())
        values = []
        for v, entry in enumerate(slicing.entries()):
            rows = int(rows_V[v])
            if not rows:
                continue
            gates: list[Reaction] = []
            for i, sums_VOE in sums.items():
                gates += _reactions(self._legends[i], sums_VOE[v] / rows, sums_VOE.sum(0) / total)
            values.append(Value(entry, rows, tuple(gates)))
        return SubPopulations(slicing.column.name, tuple(values))


def _reactions(legend: GateLabels, mean_OE: Tensor, whole_OE: Tensor) -> list[Reaction]:
    found = []
    for o, (output, reads_E) in enumerate(zip(legend.outputs, legend.edges_OE, strict=True)):
        read = [e for e, reads in enumerate(reads_E) if reads]
        if len(read) < 2:  # a single expert is passed on: there is no gate
            continue
        mean, whole = (tuple(weights_OE[o, read].tolist()) for weights_OE in (mean_OE, whole_OE))
        experts = tuple(legend.experts[e] for e in read)
        assert legend.level is not None, "gates stand on a level"
        found.append(Reaction(legend.level, output, experts, mean, whole, jensen_shannon(mean, whole)))
    return found
