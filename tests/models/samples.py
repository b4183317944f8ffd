"""Small models in fp64, and batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ple_rec.config.model import (
    AsymmetricConfig,
    CgcConfig,
    CrossStitchConfig,
    CustomizedConfig,
    HardSharingConfig,
    LevelConfig,
    MlMmoeConfig,
    MlMmoeLevelConfig,
    MmoeConfig,
    ModelConfig,
    PleConfig,
    SingleTaskConfig,
    SluiceConfig,
    TaskExpertLevelConfig,
    TowerConfig,
)
from ple_rec.data.batch import Batch
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.normalise import DenseStatistics

TASKS = ("a", "b", "c", "d")


def dense_batch(x_BD: Tensor, tasks: int = 2) -> Batch:
    """A batch whose only features are `x_BD`."""
    ones = torch.ones(len(x_BD), tasks, dtype=x_BD.dtype)
    return Batch(None, x_BD, ones, ones, None, None, len(x_BD))


def sparse_batch(bags: dict[str, list[list[int]]], weights: dict[str, list[list[float]]] | None = None) -> Batch:
    """A batch of bags of table rows by feature, with a weight per id where `weights` is given (default 1)."""
    rows = len(next(iter(bags.values())))
    pooled = [(feature, i, bag) for feature, column in bags.items() for i, bag in enumerate(column)]
    ones = torch.ones(rows, 2)
    values = None
    if weights is not None:
        given = [weights[feature][i] if feature in weights else [1.0] * len(bag) for feature, i, bag in pooled]
        values = torch.tensor([weight for bag in given for weight in bag])
    sparse = KeyedJaggedTensor(
        keys=list(bags),
        values=torch.tensor([row for _, _, bag in pooled for row in bag], dtype=torch.long),
        weights=values,
        lengths=torch.tensor([len(bag) for _, _, bag in pooled]),
        stride=rows,
    )
    return Batch(sparse, torch.zeros(rows, 0), ones, ones, None, None, rows)


def pooled_by_hand(
    table_RH: Tensor, bags: list[list[int]], weights: list[list[float]] | None = None, *, mean: bool = False
) -> Tensor:
    """One vector per bag, a row at a time: sum_i w_i r_i, or sum_i w_i r_i / sum_i w_i (0 where the divisor is 0)."""
    pooled = []
    for i, bag in enumerate(bags):
        w = [1.0] * len(bag) if weights is None else weights[i]
        divisor = sum(w) if mean else 1.0
        vector = torch.zeros_like(table_RH[0])
        if divisor:
            for row, weight in zip(bag, w, strict=True):
                vector = vector + table_RH[row] * (weight / divisor)
        pooled.append(vector)
    return torch.stack(pooled)


def dense_model(config: ModelConfig, tasks: Sequence[str], width: int, seed: int = 0) -> MultiTaskModel:
    """A model in fp64 that reads `width` dense features as they are."""
    return fp32_model(config, tasks, width, seed).double()


def fp32_model(
    config: ModelConfig, tasks: Sequence[str], width: int, seed: int = 0, precision: str = "fp32"
) -> MultiTaskModel:
    """As `dense_model`, in fp32."""
    torch.manual_seed(seed)
    return MultiTaskModel(config, tasks, None, [DenseStatistics("none")] * width, precision=precision)


def every_variant(hidden: tuple[int, ...], tower: tuple[int, ...]) -> dict[str, ModelConfig]:
    """One configuration of each variant and of its options, for tasks a and b."""
    towers = TowerConfig(hidden=tower)
    levels = (
        LevelConfig(task_experts={"a": 2, "b": 1}, shared_experts=2, expert_hidden=hidden),
        LevelConfig(task_experts=1, shared_experts=1, expert_hidden=hidden[::-1]),
    )
    bottoms = tuple(TaskExpertLevelConfig(expert_hidden=sizes) for sizes in (hidden, hidden[-1:]))
    shared = tuple(MlMmoeLevelConfig(experts=n, expert_hidden=sizes) for n, sizes in ((3, hidden), (2, hidden[::-1])))
    stitch = CrossStitchConfig(variant="cross_stitch", levels=bottoms, tower=towers)
    asymmetric = AsymmetricConfig(variant="asymmetric", bottom=hidden, donors={"b": ("a",)}, tower=towers)
    subspaces = next(g for g in range(2, hidden[-1] + 1) if hidden[-1] % g == 0)
    return {
        "ple": PleConfig(variant="ple", levels=levels, tower=towers),
        "cgc": CgcConfig(variant="cgc", task_experts=2, shared_experts=1, expert_hidden=hidden, tower=towers),
        "mmoe": MmoeConfig(variant="mmoe", experts=3, expert_hidden=hidden, tower=towers),
        "ml_mmoe": MlMmoeConfig(variant="ml_mmoe", levels=shared, tower=towers),
        "sluice": SluiceConfig(variant="sluice", levels=bottoms, subspaces=subspaces, tower=towers),
        "cross_stitch": stitch,
        "cross_stitch per channel": stitch.model_copy(update={"per_channel": True}),
        "customized": CustomizedConfig(variant="customized", bottom=hidden, tower=towers),
        "asymmetric": asymmetric,
        "asymmetric sum": asymmetric.model_copy(update={"combine": "sum"}),
        "asymmetric mean": asymmetric.model_copy(update={"combine": "mean"}),
        "hard_sharing": HardSharingConfig(variant="hard_sharing", bottom=hidden, tower=towers),
        "single_task": SingleTaskConfig(variant="single_task", bottom=hidden, tower=towers),
    }


EVERY = tuple(every_variant((2,), ()))  # the names
