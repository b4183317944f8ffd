"""What the dense layers of a variant cost: known from its configuration, without its tables and without memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ple_rec.config.run import RunConfig
from ple_rec.distributed.capacity import gib
from ple_rec.errors import UserError
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.models.weighting import WEIGHTINGS
from ple_rec.modules.normalise import DenseStatistics
from ple_rec.runtime.host import usable_memory_bytes
from ple_rec.training.model import least_dense_parameters

_BYTES_PER_WEIGHT = 4

CONFLICT_BATCHES = (
    10  # on which gradients are taken: half of what `ple-rec analyze` takes, since it is at every evaluation
)


@dataclass(frozen=True)
class Cost:
    """Of experts, mixings and towers; look-ups and tables, which every variant shares, are left out.

    Args:
        flops_per_sample: Forward FLOPs of the matrix products of one sample, two per multiply-add.
        dense_parameters: Trained values outside the tables.
    """

    flops_per_sample: int
    dense_parameters: int


def cost_of(config: RunConfig, tasks: Sequence[str], width: int) -> Cost:
    """The cost of a run's model, counted on the meta device by what the run itself reports.

    Args:
        config: Of the run; the dataset that it names is not read.
        tasks: Names of its tasks.
        width: Width of the first level's input: pooled embeddings and dense features (`training.model.first_layer`).

    Raises:
        UserError: a task has a name that is taken.
    """
    with torch.device("meta"):
        weighting = WEIGHTINGS[config.train.loss_weighting](["mse"] * len(tasks))  # of whatever losses, as large
        model = MultiTaskModel(config.model, tasks, None, [DenseStatistics("none")] * width, weighting=weighting)
    return Cost(model.flops_per_sample(), model.dense_parameters())


def check_size(config: RunConfig, tasks: Sequence[str], width: int) -> None:
    """Refuse dense layers that this machine cannot hold; to count their cost would take all memory, too.

    Args:
        config: Configuration of a run.
        tasks: Names of its tasks.
        width: Width of x.

    Raises:
        UserError: the weights alone are larger than the memory.
    """
    memory = usable_memory_bytes()
    if torch.cuda.is_available():
        devices = range(torch.cuda.device_count())
        memory = max(memory, *(torch.cuda.get_device_properties(i).total_memory for i in devices))
    needed = _BYTES_PER_WEIGHT * least_dense_parameters(config, tasks, width)
    if needed > memory:
        raise UserError(
            f"{config.name} (embeddings.dim, model)",
            f"the weights of the dense layers, which read all embeddings, take at least {gib(needed)}",
            f"a run of a comparison fits one machine, and this one has {gib(memory)}",
            "use a smaller embeddings.dim, or narrower layers in [model]",
        )


def conflict_samples(batch_size: int, tasks: int) -> float:
    """Return how many trained samples take as long as one measurement of gradient conflict does."""
    passes = 1 + 2 * tasks  # a forward pass, and a backward pass for each task, of twice its FLOPs
    return CONFLICT_BATCHES * batch_size * passes / 3 if tasks > 1 else 0.0


def sizes_of(config: RunConfig) -> dict[str, list[int]]:
    """Layer sizes of the variant's experts or bottoms by their key: `model.levels[0].expert_hidden`."""
    model: Any = config.model
    if hasattr(model, "levels"):
        return {f"model.levels[{i}].expert_hidden": list(level.expert_hidden) for i, level in enumerate(model.levels)}
    name = _name(model)
    return {f"model.{name}": list(getattr(model, name))}


def with_sizes(config: RunConfig, sizes: Mapping[str, Sequence[int]]) -> RunConfig:
    """The same run with other sizes, given as by `sizes_of`."""
    raw = config.model.model_dump(mode="json")
    lists = [list(sizes[key]) for key in sizes_of(config)]
    if "levels" in raw:
        for level, hidden in zip(raw["levels"], lists, strict=True):
            level["expert_hidden"] = hidden
    else:
        (raw[_name(config.model)],) = lists
    return config.model_copy(update={"model": type(config.model).model_validate_json(json.dumps(raw))})


def _name(model: Any) -> str:
    return "bottom" if hasattr(model, "bottom") else "expert_hidden"
