"""Metrics of all tasks of a model, updated and reduced together.

Shapes: B rows of a batch, K tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from ple_rec.config.base import TaskKind
from ple_rec.config.metrics import GAUC, GAUCS
from ple_rec.config.schema import Task
from ple_rec.metrics import accumulator
from ple_rec.metrics.accumulator import Accumulator, State, TaskCurves
from ple_rec.metrics.binary import EXACT_LIMIT, BinaryAccumulator
from ple_rec.metrics.gauc import GroupAuc
from ple_rec.metrics.regression import R2Accumulator, RegressionAccumulator


class MetricCollection:
    """Metrics of every task. All tasks of one kind share their tensor operations.

    A row counts for a task if it is in the task's sample space, for example only clicked impressions for a conversion
    rate. `compute` takes one all-reduce of the sums of all tasks, a second one of the buffers or histograms if there
    are binary tasks, and with `gauc` those of `GroupAuc`. `curves` takes one.

    Args:
        tasks: Tasks in the order of the columns of a batch's labels, at least one and with different names.
        device: Device of the batches; the process group must be able to reduce tensors on it.
        exact_limit: Number of rows over all ranks up to which AUC is exact; with 0, AUC comes from a histogram, in
            constant memory.
        gauc: True to compute the GAUC of binary tasks, if batches have groups, and that of subgroups, if they have
            those. All ranks pass the same value.
        r2: True to compute the R^2 of regression tasks, for which the state has one more sum.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        device: torch.device | str,
        *,
        exact_limit: int = EXACT_LIMIT,
        gauc: bool = False,
        r2: bool = False,
    ) -> None:
        self._names = [task.name for task in tasks]
        self._gauc: GroupAuc | None = None
        self._subgroup_gauc: GroupAuc | None = None
        self._columns_and_accumulators: dict[TaskKind, tuple[Tensor | None, Accumulator]] = {}
        columns = {kind: [k for k, task in enumerate(tasks) if task.kind == kind] for kind in ("binary", "regression")}
        if columns["binary"]:
            names = [self._names[k] for k in columns["binary"]]
            binary = BinaryAccumulator(names, device, exact_limit=exact_limit)
            self._columns_and_accumulators["binary"] = self._column_index(columns["binary"], device), binary
            if gauc:
                self._gauc, self._subgroup_gauc = GroupAuc(len(names), device), GroupAuc(len(names), device)
        if columns["regression"]:
            names = [self._names[k] for k in columns["regression"]]
            regression = (R2Accumulator if r2 else RegressionAccumulator)(names, device)
            self._columns_and_accumulators["regression"] = self._column_index(columns["regression"], device), regression

    def _column_index(self, columns: list[int], device: torch.device | str) -> Tensor | None:
        """Return the columns of one kind as an index on the device, or None for all columns."""
        return None if len(columns) == len(self._names) else torch.tensor(columns, device=device)

    def update(
        self,
        logits_BK: Tensor,
        labels_BK: Tensor,
        in_space_BK: Tensor,
        weight_B: Tensor | None,
        group_B: Tensor | None = None,
        subgroup_B: Tensor | None = None,
    ) -> None:
        """Add a batch. Only GAUC waits for the device, once in many batches.

        Args:
            logits_BK: Logits of binary tasks, and predictions of regression tasks.
            labels_BK: Labels of each row and task.
            in_space_BK: Flags of the sample spaces, nonzero for a row that counts for the task; other logits and labels
                may be NaN.
            weight_B: Sample weights >= 0, or None if all are 1.
            group_B: Groups for GAUC, -1 for null; None, on every rank and for every batch, if the data has none.
            subgroup_B: Subgroups for the GAUC of subgroups, in the same form. Only data with groups has them.

        Raises:
            ValueError: A shape does not fit the tasks.
        """
        for name, tensor in (("logits", logits_BK), ("labels", labels_BK), ("in_space", in_space_BK)):
            if tensor.dim() != 2 or tensor.shape[1] != len(self._names):
                raise ValueError(
                    f"{name}: got shape {tuple(tensor.shape)}; expected (batch, {len(self._names)}), one column for "
                    f"each of the tasks {self._names}"
                )
        for kind, (columns, each) in self._columns_and_accumulators.items():
            logits, labels, in_space = (
                x if columns is None else x.index_select(1, columns) for x in (logits_BK, labels_BK, in_space_BK)
            )
            each.update(logits, labels, weight_B, in_space)
            if kind == "binary" and self._gauc is not None and group_B is not None:
                self._gauc.update(logits, labels, weight_B, in_space, group_B)
            if kind == "binary" and self._subgroup_gauc is not None and subgroup_B is not None:
                self._subgroup_gauc.update(logits, labels, weight_B, in_space, subgroup_B, group_B)

    def compute(self, group: ProcessGroup | None = None) -> dict[str, dict[str, Any]]:
        """Return `{task: metrics}` over all ranks, equal on every rank. This is a collective.

        The keys are those of `BinaryAccumulator`, `RegressionAccumulator` and `GroupAuc.compute`; those of the GAUC of
        subgroups begin with `subgroup_gauc`. Those of GAUC are absent if no rank had groups, or subgroups.

        Raises:
            DivergedError: A row of a sample space has a value that is not finite, or a negative weight. Every rank
                raises the error.
        """
        results: dict[str, dict[str, Any]] = {**accumulator.compute(self._accumulators(), group)}
        for metric, gauc in zip(GAUCS, (self._gauc, self._subgroup_gauc), strict=True):
            if gauc is not None and (group_results := gauc.compute(group)):
                for name, result in zip(self._columns_and_accumulators["binary"][1].names, group_results, strict=True):
                    results[name] |= {key.replace(GAUC, metric, 1): value for key, value in result.items()}
        return {name: results[name] for name in self._names}

    def curves(self, group: ProcessGroup | None = None) -> dict[str, TaskCurves]:
        """Return `{task: curves}` over all ranks. This is a collective."""
        results = accumulator.curves(self._accumulators(), group)
        return {name: results[name] for name in self._names}

    def reset(self) -> None:
        """Forget every sample."""
        for each in self._accumulators():
            each.reset()
        for gauc in (self._gauc, self._subgroup_gauc):
            if gauc is not None:
                gauc.reset()

    def state_dict(self) -> State:
        """Return a copy of this rank's state: tensors and ints under `<kind>.<name>`.

        Raises:
            ValueError: The collection computes GAUC, which depends on the order of rows over ranks.
        """
        self._check_mergeable()
        return {
            f"{kind}.{key}": value
            for kind, (_, each) in self._columns_and_accumulators.items()
            for key, value in each.state_dict().items()
        }

    def merge_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Add another rank's state, as if its samples had been added here, so that a run can go on with fewer ranks.

        Raises:
            UserError: The state belongs to other tasks or to another version; this collection is then unchanged.
            ValueError: The collection computes GAUC.
        """
        self._check_mergeable()
        for kind, (_, each) in self._columns_and_accumulators.items():
            each.check_state(_state_of_kind(state, kind))
        for kind, (_, each) in self._columns_and_accumulators.items():
            each.merge_state_dict(_state_of_kind(state, kind))

    def _check_mergeable(self) -> None:
        if self._gauc is not None:
            raise ValueError(f"gauc of the tasks {self._names} has no state to save: it depends on the order of rows")

    def _accumulators(self) -> list[Accumulator]:
        return [each for _, each in self._columns_and_accumulators.values()]


def _state_of_kind(state: Mapping[str, Tensor | int], kind: str) -> State:
    return {key.removeprefix(f"{kind}."): value for key, value in state.items() if key.startswith(f"{kind}.")}
