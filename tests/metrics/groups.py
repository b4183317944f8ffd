"""Rows with groups for the tests of GAUC, and GAUC written down literally: group after group, AUC over all pairs.

Apart from the tests, so that the processes of ranks import no test libraries, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from ple_rec.metrics.gauc import GroupAuc

Row = tuple[int, float, float, float]  # group, score, label, weight


class Truth(NamedTuple):
    gauc: float | None
    groups: int
    excluded: int
    ungrouped: int


def rows_of(
    group_N: Tensor, score_N: Tensor, label_N: Tensor, weight_N: Tensor | None, in_space_N: Tensor
) -> list[Row]:
    """The rows of one task's sample space."""
    weights = [1.0] * len(group_N) if weight_N is None else weight_N.tolist()
    rows = zip(group_N.tolist(), score_N.tolist(), label_N.tolist(), weights, in_space_N.tolist(), strict=True)
    return [(group, score, label, weight) for group, score, label, weight, inside in rows if inside]


def auc(members: Sequence[Row]) -> float | None:
    """Over all pairs of a positive and a negative; None without one."""
    _, score, label, weight = np.array(members, dtype=np.float64).T
    above = score[label == 1][:, None] - score[label == 0]
    pairs = weight[label == 1][:, None] * weight[label == 0]
    return float((((above > 0) + 0.5 * (above == 0)) * pairs).sum() / pairs.sum()) if pairs.size else None


def truth(rows: Sequence[Row]) -> Truth:
    """GAUC of the rows of one task's sample space."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        if row[0] != -1 and row[3] > 0:
            groups.setdefault(row[0], []).append(row)
    area = total = 0.0
    mixed = 0
    for members in groups.values():
        weight, found = sum(row[3] for row in members), auc(members)
        if found is not None:
            area, total, mixed = area + weight * found, total + weight, mixed + 1
    ungrouped = sum(row[0] == -1 for row in rows)
    return Truth(area / total if mixed else None, mixed, len(groups) - mixed, ungrouped)


def exactly(expected: Truth) -> dict[str, object]:
    """The result that an exact GAUC has, to 12 digits."""
    return {
        "gauc": None if expected.gauc is None else pytest.approx(expected.gauc, rel=1e-12, abs=1e-12),
        "gauc_groups": expected.groups,
        "gauc_excluded_groups": expected.excluded,
        "gauc_oversized_groups": 0,
        "gauc_ungrouped": expected.ungrouped,
        "gauc_exact": True,
        "gauc_interval": None,
    }


class Data(NamedTuple):
    """The arguments of `GroupAuc.update`, in order."""

    logits: Tensor
    labels: Tensor
    weight: Tensor
    in_space: Tensor
    groups: Tensor

    def part(self, rows: slice | Tensor) -> Data:
        return Data(*(tensor[rows] for tensor in self))

    def feed(self, metric: GroupAuc, batch: int = 50) -> GroupAuc:
        for start in range(0, len(self.groups), batch):
            metric.update(*self.part(slice(start, start + batch)))
        return metric

    def truth(self, task: int) -> Truth:
        columns = self.logits[:, task], self.labels[:, task], self.weight, self.in_space[:, task]
        return truth(rows_of(self.groups, *columns))


def made(sizes: list[int], seed: int = 0, *, step: float = 0.5, tasks: int = 2) -> Data:
    """Groups 0, 1, ... of `sizes` rows, every fifth of them null; ties, weights, and a space for all tasks but one."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    rows = len(groups)
    quality = torch.randn(len(sizes), 1, generator=generator)[groups] * 0.5 + 0.7  # AUC differs from group to group
    logits = torch.randn(rows, tasks, generator=generator)
    labels = (torch.rand(rows, tasks, generator=generator) < (quality * logits - 0.5).sigmoid()).float()
    logits = (logits / step).round() * step
    in_space = torch.rand(rows, tasks, generator=generator) < 0.6
    in_space[:, 0] = True
    logits[~in_space], labels[~in_space] = torch.nan, torch.nan
    groups[groups % 5 == 3] = -1
    return Data(logits, labels, torch.rand(rows, generator=generator) * 3, in_space, groups)


def parts_of(data: Data) -> Data:
    """The rows in two parts a group, whose ids descend from group to group: 1000 - 2 group, and one more."""
    position = torch.arange(len(data.groups))
    groups = torch.where(data.groups == -1, -1, 1000 - 2 * data.groups + (position % 3 == 0).long())
    order = torch.argsort(torch.where(groups == -1, 2000, 2 * data.groups + groups % 2), stable=True)
    return data._replace(groups=groups).part(order)


def outer_of(parts: Data) -> Tensor:
    """The groups whose parts these are."""
    return torch.where(parts.groups == -1, -1, (1000 - parts.groups + 1) // 2)
