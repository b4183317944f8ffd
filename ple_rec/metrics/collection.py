"""The metrics of all tasks of a model, updated together and reduced together.

Shapes: B batch, K tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from ple_rec.config.base import TaskKind
from ple_rec.config.schema import Task
from ple_rec.metrics import accumulator
from ple_rec.metrics.accumulator import Accumulator, Curves, State
from ple_rec.metrics.binary import EXACT_LIMIT, BinaryAccumulator
from ple_rec.metrics.gauc import GroupAuc
from ple_rec.metrics.regression import R2Accumulator, RegressionAccumulator


class MetricCollection:
    """The metrics of every task, with one set of tensor operations for all tasks of a kind.

    `compute` takes one all-reduce of the sums of all tasks, and a second one (the buffers or the histograms of all
    binary tasks) where an AUC is defined, and with `gauc` those of `GroupAuc`; `curves` takes one.

    Args:
        tasks: The tasks, in the order of the columns of a batch's labels; at least one, names differ.
        device: Where batches are; its process group must be able to reduce tensors there.
        exact_limit: Rows up to which AUC is exact; 0 keeps a histogram only, in constant memory.
        gauc: Whether binary tasks get their GAUC too, where batches have groups; the same on every rank.
        r2: Whether regressions get their R^2 too; the state then has another shape.
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
        self._kinds: dict[TaskKind, tuple[Tensor | None, Accumulator]] = {}
        columns = {kind: [k for k, task in enumerate(tasks) if task.kind == kind] for kind in ("binary", "regression")}
        if columns["binary"]:
            names = [self._names[k] for k in columns["binary"]]
            kept = BinaryAccumulator(names, device, exact_limit=exact_limit)
            self._kinds["binary"] = self._choice(columns["binary"], device), kept
            if gauc:
                self._gauc = GroupAuc(len(names), device)
        if columns["regression"]:
            names = [self._names[k] for k in columns["regression"]]
            regression = (R2Accumulator if r2 else RegressionAccumulator)(names, device)
            self._kinds["regression"] = self._choice(columns["regression"], device), regression

    def _choice(self, columns: list[int], device: torch.device | str) -> Tensor | None:
        """The columns of one kind as an index on the device; None for all of them."""
        return None if len(columns) == len(self._names) else torch.tensor(columns, device=device)

    def update(
        self,
        logits_BK: Tensor,
        labels_BK: Tensor,
        in_space_BK: Tensor,
        weight_B: Tensor | None,
        group_B: Tensor | None = None,
    ) -> None:
        """Add a batch; only GAUC waits for the device now and then.

        Args:
            logits_BK: Logits of binary tasks, predictions of regression tasks.
            labels_BK: Labels.
            in_space_BK: Nonzero where the row counts for the task; elsewhere logit and label may be NaN.
            weight_B: Sample weights >= 0; None for 1.
            group_B: Groups for GAUC, -1 where null; None, on every rank and for every batch, where there are none.

        Raises:
            ValueError: if a shape is not that of the tasks.
        """
        for name, tensor in (("logits", logits_BK), ("labels", labels_BK), ("in_space", in_space_BK)):
            if tensor.dim() != 2 or tensor.shape[1] != len(self._names):
                raise ValueError(
                    f"{name}: got shape {tuple(tensor.shape)}; expected (batch, {len(self._names)}), one column for "
                    f"each of the tasks {self._names}"
                )
        for kind, (columns, kept) in self._kinds.items():
            logits, labels, in_space = (
                x if columns is None else x.index_select(1, columns) for x in (logits_BK, labels_BK, in_space_BK)
            )
            kept.update(logits, labels, weight_B, in_space)
            if kind == "binary" and self._gauc is not None and group_B is not None:
                self._gauc.update(logits, labels, weight_B, in_space, group_B)

    def compute(self, group: ProcessGroup | None = None) -> dict[str, dict[str, Any]]:
        """`{task: metrics}` over all ranks of `group`, equal on every rank; a collective.

        See `BinaryAccumulator`, `RegressionAccumulator` and `GroupAuc.compute` for the keys; GAUC's are absent where no
        rank was fed groups.

        Raises:
            DivergedError: on every rank, if a row of a sample space held a value that is not finite.
        """
        results: dict[str, dict[str, Any]] = {**accumulator.compute(self._accumulators(), group)}
        if self._gauc is not None and (found := self._gauc.compute(group)):
            for name, result in zip(self._kinds["binary"][1].names, found, strict=True):
                results[name] |= result
        return {name: results[name] for name in self._names}

    def curves(self, group: ProcessGroup | None = None) -> dict[str, Curves]:
        """`{task: curves}` over all ranks of `group`; a collective."""
        results = accumulator.curves(self._accumulators(), group)
        return {name: results[name] for name in self._names}

    def reset(self) -> None:
        """Forget every sample."""
        for kept in self._accumulators():
            kept.reset()
        if self._gauc is not None:
            self._gauc.reset()

    def state_dict(self) -> State:
        """A copy of this rank's state: tensors and ints under `<kind>.<name>`.

        Raises:
            ValueError: of a collection with `gauc`, which depends on the order of rows over ranks.
        """
        self._check_mergeable()
        return {
            f"{kind}.{key}": value
            for kind, (_, kept) in self._kinds.items()
            for key, value in kept.state_dict().items()
        }

    def merge_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Add another rank's state, as if its samples had been fed here: how a state moves to fewer ranks.

        Raises:
            UserError: if it is a state of other tasks; nothing is changed then.
        """
        self._check_mergeable()
        for kind, (_, kept) in self._kinds.items():
            kept.check(_part(state, kind))
        for kind, (_, kept) in self._kinds.items():
            kept.merge_state_dict(_part(state, kind))

    def _check_mergeable(self) -> None:
        if self._gauc is not None:
            raise ValueError(f"gauc of the tasks {self._names} has no state to save: it depends on the order of rows")

    def _accumulators(self) -> list[Accumulator]:
        return [kept for _, kept in self._kinds.values()]


def _part(state: Mapping[str, Tensor | int], kind: str) -> State:
    return {key.removeprefix(f"{kind}."): value for key, value in state.items() if key.startswith(f"{kind}.")}
