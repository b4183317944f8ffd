"""Gates by the values of a column: whether a gate weights experts otherwise for, say, auto-play than for clicks.

At the best checkpoint, every A_oe is averaged over the rows of each value in the test split. `jensen_shannon` is the
distance of these means from the means over all rows.

Shape suffixes: B batch, O outputs, E experts, V codes of a column (shown values, missing, any other).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ple_rec.analysis.result import Reaction, SubPopulations, Value
from ple_rec.analysis.utilisation import GATED, jensen_shannon
from ple_rec.data.batch import Batch
from ple_rec.data.slices import Slicing
from ple_rec.modules.routing import GateLabels


class GatesByValue:
    """Sums of the gates over the rows of each value of each column.

    Args:
        labels: Labels of each A that the model returns; those without gates are left out.
        slicings: Slicing of each column of a batch's `slices_BC`.
    """

    def __init__(self, labels: Sequence[GateLabels], slicings: Sequence[Slicing]) -> None:
        self._labels = {i: each for i, each in enumerate(labels) if each.mixing == GATED}
        self._slicings = list(slicings)
        self._rows = [torch.zeros(slicing.codes, dtype=torch.int64) for slicing in slicings]
        self._sums = [
            {
                i: torch.zeros(slicing.codes, len(each.outputs), len(each.experts), dtype=torch.float64)
                for i, each in self._labels.items()
            }
            for slicing in slicings
        ]

    def update(self, batch: Batch, gates: Sequence[Tensor]) -> None:
        """Add the A_BOE of a batch, one for each of the labels, without its padding."""
        if batch.slices_BC is None:
            return
        n = batch.rows
        real = {i: gates[i][:n].double().cpu() for i in self._labels}
        for column, (rows_V, sums) in enumerate(zip(self._rows, self._sums, strict=True)):
            codes_B = batch.slices_BC[:n, column].long()
            rows_V += torch.bincount(codes_B, minlength=len(rows_V))
            for i, sums_VOE in sums.items():
                sums_VOE.index_add_(0, codes_B, real[i])

    def compute(self) -> tuple[SubPopulations, ...]:
        """Return, for each column, its values that have rows.

        Raises:
            DataError: A vocabulary is damaged, from which the names of values come.
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
                gates += _reactions(self._labels[i], sums_VOE[v] / rows, sums_VOE.sum(0) / total)
            values.append(Value(entry, rows, tuple(gates)))
        return SubPopulations(slicing.column.name, tuple(values))


def _reactions(labels: GateLabels, mean_OE: Tensor, whole_OE: Tensor) -> list[Reaction]:
    reactions = []
    for o, (output, reads_E) in enumerate(zip(labels.outputs, labels.edges_OE, strict=True)):
        inputs = [e for e, reads in enumerate(reads_E) if reads]
        # A single expert is passed on without a gate.
        if len(inputs) < 2:
            continue
        mean, whole = (tuple(weights_OE[o, inputs].tolist()) for weights_OE in (mean_OE, whole_OE))
        experts = tuple(labels.experts[e] for e in inputs)
        assert labels.level is not None, "gates stand on a level"
        reactions.append(Reaction(labels.level, output, experts, mean, whole, jensen_shannon(mean, whole)))
    return reactions
