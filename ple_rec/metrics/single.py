"""What the metrics of one task share: an accumulator of width 1 behind vectors over the batch.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from torch import Tensor
from torch.distributed import ProcessGroup

from ple_rec.metrics import accumulator
from ple_rec.metrics.accumulator import Accumulator, Curves, Result, State

A = TypeVar("A", bound=Accumulator)


class TaskMetrics(Generic[A]):
    """Metrics of one task; subclasses add `update` and say what `compute` returns."""

    def __init__(self, task: A) -> None:
        self._task = task

    def _update(self, scores_B: Tensor, labels_B: Tensor, weight_B: Tensor | None, in_space_B: Tensor) -> None:
        self._task.update(scores_B.unsqueeze(-1), labels_B.unsqueeze(-1), weight_B, in_space_B.unsqueeze(-1))

    def compute(self, group: ProcessGroup | None = None) -> Result:
        """The metrics over all ranks of `group`, equal on every rank; a collective where there is a process group.

        Raises:
            DivergedError: on every rank, if a row in the space held a value that is not finite or a negative weight.
        """
        return accumulator.compute([self._task], group)[self._task.names[0]]

    def curves(self, group: ProcessGroup | None = None) -> Curves:
        """The curves over all ranks of `group`; a collective where there is a process group.

        Returns:
            `{"calibration": [{"predicted": .., "observed": .., "weight": ..}, ...]}`, up to 20 bins of about equal
            weight, and for a binary task `"roc": [[fpr, tpr], ...]`; empty lists where undefined.
        """
        return accumulator.curves([self._task], group)[self._task.names[0]]

    def reset(self) -> None:
        """Forget every sample."""
        self._task.reset()

    def state_dict(self) -> State:
        """A copy of this rank's state: tensors and ints."""
        return self._task.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Replace this rank's state; raises as `merge_state_dict` does."""
        self._task.load_state_dict(state)

    def merge_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Add another rank's state, as if its samples had been fed here: how a state moves to fewer ranks.

        Raises:
            UserError: if it is a state of another shape.
        """
        self._task.merge_state_dict(state)
