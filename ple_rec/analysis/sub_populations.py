"""Gate weights for each value of a column: do they differ between, for example, auto-played and clicked videos?

A_oe is the weight that the gate of output o (a task, or experts of the next level) gives expert e for a sample. A is
averaged over the rows with each value, in the test split at the best checkpoint. The result has these means, and their
Jensen-Shannon distance from the means over all rows. A mixing is one of the matrices A of the model; in a mixing
without a softmax, A is the same for all samples.

Shape suffixes: B batch, C columns of `Batch.slices_BC`, O outputs, E experts, V codes of a column (the listed values,
missing, any other).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ple_rec.analysis.result import GateForValue, SubPopulation, SubPopulations
from ple_rec.analysis.utilisation import GATED, jensen_shannon
from ple_rec.data.batch import Batch
from ple_rec.data.slices import Slicing
from ple_rec.modules.routing import GateLabels


class GatesByValue:
    """Sums of the gates over the rows of each value of each column.

    Args:
        labels: Names of the outputs and experts of each mixing that the model returns. Mixings without a softmax are
            ignored.
        slicings: Values of each column of a batch's `slices_BC`, and their codes.
    """

    def __init__(self, labels: Sequence[GateLabels], slicings: Sequence[Slicing]) -> None:
        # `gate_labels.mixing` is the kind of a mixing.
        self._labels = {i: gate_labels for i, gate_labels in enumerate(labels) if gate_labels.mixing == GATED}
        self._slicings = list(slicings)
        self._rows = [torch.zeros(slicing.code_count, dtype=torch.int64) for slicing in slicings]
        self._sums = [
            {
                i: torch.zeros(slicing.code_count, len(each.outputs), len(each.experts), dtype=torch.float64)
                for i, each in self._labels.items()
            }
            for slicing in slicings
        ]

    def update(self, batch: Batch, gates: Sequence[Tensor]) -> None:
        """Add the samples of a batch without its padding. A batch without codes adds nothing.

        Args:
            batch: Batch with the codes of the columns.
            gates: Weights (B, O, E) of each mixing, in the order of the labels.
        """
        if batch.slices_BC is None:
            return
        n = batch.rows
        # Weights of the rows that are not padding.
        real = {i: gates[i][:n].double().cpu() for i in self._labels}
        for column, (rows_V, sums) in enumerate(zip(self._rows, self._sums, strict=True)):
            codes_B = batch.slices_BC[:n, column].long()
            rows_V += torch.bincount(codes_B, minlength=len(rows_V))
            for i, sums_VOE in sums.items():
                sums_VOE.index_add_(0, codes_B, real[i])

    def compute(self) -> tuple[SubPopulations, ...]:
        """Return the mean gates for each value with rows, column by column.

        Raises:
            DataError: A vocabulary, from which the names of values are read, is damaged.
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
            gates: list[GateForValue] = []
            for i, sums_VOE in sums.items():
                gates += _gates_for_value(self._labels[i], sums_VOE[v] / rows, sums_VOE.sum(0) / total)
            values.append(SubPopulation(entry, rows, tuple(gates)))
        return SubPopulations(slicing.column.name, tuple(values))


def _gates_for_value(labels: GateLabels, mean_OE: Tensor, whole_OE: Tensor) -> list[GateForValue]:
    gates = []
    for o, (output, reads_E) in enumerate(zip(labels.outputs, labels.edges_OE, strict=True)):
        inputs = [e for e, reads in enumerate(reads_E) if reads]
        # An output that reads a single expert has no gate.
        if len(inputs) < 2:
            continue
        mean, whole = (tuple(weights_OE[o, inputs].tolist()) for weights_OE in (mean_OE, whole_OE))
        experts = tuple(labels.experts[e] for e in inputs)
        assert labels.level is not None, "only a mixing without a softmax can combine several levels"
        gates.append(GateForValue(labels.level, output, experts, mean, whole, jensen_shannon(mean, whole)))
    return gates
