"""Cost of a variant in FLOPs or parameters, and the widths at which it costs as much as another variant.

All widths of its experts (bottoms) are multiplied by one common factor and rounded. If rounding alone leaves more than
half a percent, single widths are moved by a step or two. Towers and the numbers of experts stay; gates follow the
widths that they read and mix. Two variants within half a percent of one target are within one percent of each other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from typing import Any, Literal

import torch

from ple_rec.config.model import SluiceConfig
from ple_rec.config.run import RunConfig
from ple_rec.distributed.capacity import gib
from ple_rec.errors import UserError
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.models.weighting import WEIGHTINGS
from ple_rec.modules.normalise import DenseStatistics
from ple_rec.runtime.host import usable_memory_bytes
from ple_rec.training.model import least_dense_parameters

_BYTES_PER_WEIGHT = 4

# Every evaluation takes gradients, so it takes half as many batches as `ple-rec analyze` does once.
CONFLICT_BATCHES = 10


@dataclass(frozen=True)
class Cost:
    """Cost of experts, mixings and towers; look-ups and tables, which every variant shares, are left out.

    Args:
        flops_per_sample: Forward FLOPs of the matrix products of one sample, two per multiply-add.
        dense_parameters: Trained values outside the tables.
    """

    flops_per_sample: int
    dense_parameters: int


def cost_of(config: RunConfig, tasks: Sequence[str], width: int) -> Cost:
    """Return the cost of a run's model, which is built on the meta device and counts as in training.

    Args:
        config: Configuration of the run; the dataset that it names is not read.
        tasks: Names of its tasks.
        width: Width of the first level's input: pooled embeddings and dense features (`training.model.first_layer`).

    Raises:
        UserError: A task has a reserved name.
    """
    with torch.device("meta"):
        # The number of weights does not depend on the losses.
        weighting = WEIGHTINGS[config.train.loss_weighting](["mse"] * len(tasks))
        model = MultiTaskModel(config.model, tasks, None, [DenseStatistics("none")] * width, weighting=weighting)
    return Cost(model.flops_per_sample(), model.dense_parameters())


def check_size(config: RunConfig, tasks: Sequence[str], width: int) -> None:
    """Refuse dense layers that do not fit this machine, before counting their cost would take all memory.

    Args:
        config: Configuration of a run.
        tasks: Names of its tasks.
        width: Width of the first level's input.

    Raises:
        UserError: The weights alone are larger than the memory.
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
    # There is one forward pass, and for each task a backward pass of twice its FLOPs.
    passes = 1 + 2 * tasks
    return CONFLICT_BATCHES * batch_size * passes / 3 if tasks > 1 else 0.0


def sizes_of(config: RunConfig) -> dict[str, list[int]]:
    """Return layer sizes of the experts or bottoms by their keys, such as `model.levels[0].expert_hidden`."""
    model: Any = config.model
    if hasattr(model, "levels"):
        return {f"model.levels[{i}].expert_hidden": list(level.expert_hidden) for i, level in enumerate(model.levels)}
    name = _name(model)
    return {f"model.{name}": list(getattr(model, name))}


def with_sizes(config: RunConfig, sizes: Mapping[str, Sequence[int]]) -> RunConfig:
    """Return the run with other layer sizes.

    Args:
        config: Configuration of the run.
        sizes: New sizes by the keys of `sizes_of`.
    """
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


By = Literal["flops", "params"]

# A variant whose cost differs from the target by a greater share is refused.
TOLERANCE = 0.01
AIM = TOLERANCE / 2
_MOVES = (-1, 1, -2, 2)
UNITS: dict[By, tuple[str, str]] = {
    "flops": ("flops_per_sample", "FLOPs a sample"),
    "params": ("dense_parameters", "dense parameters"),
}

# Every width, in its steps.
Counts = tuple[int, ...]


@dataclass(frozen=True)
class _Width:
    """A width that can be chosen, and the layers that have it.

    Args:
        places: Key of the sizes and index of the layer, for each of these layers.
        count: Width in the configuration, in steps.
        step: Number that the width is a multiple of.
    """

    places: tuple[tuple[str, int], ...]
    count: int
    step: int = 1


def match_cost(
    config: RunConfig, target: Cost, by: By, tasks: Sequence[str], width: int
) -> tuple[RunConfig, dict[str, list[int]]]:
    """Return the run with the widths at which its dense layers cost as much as the target.

    Args:
        config: Configuration of the variant, whose sizes stay in proportion; it stays if its cost equals the target.
        target: Cost of the reference.
        by: Unit in which costs agree.
        tasks: Names of the tasks.
        width: Width of the first level's input.

    Returns:
        The run, and its layer sizes that changed, by key.

    Raises:
        UserError: No widths come within one percent.
    """
    field, unit = UNITS[by]
    target_cost: int = getattr(target, field)
    widths = _widths(config)

    @cache
    def cost(counts: Counts) -> int:
        value: int = getattr(cost_of(_with_counts(config, widths, counts), tasks, width), field)
        return value

    def gap(counts: Counts) -> float:
        return cost(counts) / target_cost - 1

    best = _scale(widths, gap)
    if abs(gap(best)) > AIM:
        best = _refine(best, gap)
    matching = _with_counts(config, widths, best)
    before, after = sizes_of(config), sizes_of(matching)
    if abs(gap(best)) > TOLERANCE:
        narrowest = max(best) == 1 and gap(best) > 0
        raise UserError(
            f"{config.name} (model.variant {config.model.variant})",
            f"comes no nearer to {target_cost:,} {unit} than {cost(best):,} ({100 * gap(best):+.1f} %), at "
            + ", ".join(f"{key} = {hidden}" for key, hidden in after.items()),
            "variants of equal cost agree within 1 %, and "
            + ("this one costs more even at its narrowest" if narrowest else "these widths are too few, and too small"),
            f"give it {'fewer experts or smaller towers' if narrowest else 'more experts, or two layers'}, "
            'take a larger reference, or set match = "none"',
        )
    return matching, {key: hidden for key, hidden in after.items() if hidden != before[key]}


def _widths(config: RunConfig) -> list[_Width]:
    sizes, model = sizes_of(config), config.model
    if not isinstance(model, SluiceConfig):
        return [_Width(((key, i),), size) for key, hidden in sizes.items() for i, size in enumerate(hidden)]
    # A sluice network mixes the outputs of its levels, so they share one width, which is a multiple of its subspaces.
    inner = [_Width(((key, i),), size) for key, hidden in sizes.items() for i, size in enumerate(hidden[:-1])]
    outputs = tuple((key, len(hidden) - 1) for key, hidden in sizes.items())
    width = model.levels[0].expert_hidden[-1]
    return [*inner, _Width(outputs, width // model.subspaces, model.subspaces)]


def _with_counts(config: RunConfig, widths: Sequence[_Width], counts: Counts) -> RunConfig:
    sizes = sizes_of(config)
    for width, count in zip(widths, counts, strict=True):
        for key, layer in width.places:
            sizes[key][layer] = count * width.step
    return with_sizes(config, sizes)


def _scale(widths: Sequence[_Width], gap: Callable[[Counts], float]) -> Counts:
    """Return the widths times the common factor that comes nearest; cost grows with every width, so it is bisected."""

    def at(factor: float) -> Counts:
        return tuple(max(1, round(width.count * factor)) for width in widths)

    low, high = 0.0, 1.0
    while gap(at(high)) < 0:
        low, high = high, 2 * high
    while at(low) != at(high) and high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if gap(at(middle)) < 0 else (low, middle)
    return min(at(low), at(high), key=lambda counts: abs(gap(counts)))


def _refine(start: Counts, gap: Callable[[Counts], float]) -> Counts:
    """Move one or two widths again and again, until the gap is below half a percent or no move makes it smaller."""
    best = start
    while abs(gap(best)) > AIM:
        nearest = min(_neighbours(best), key=lambda counts: abs(gap(counts)))
        if abs(gap(nearest)) >= abs(gap(best)):
            break
        best = nearest
    return best


def _neighbours(counts: Counts) -> Iterator[Counts]:
    for moves in (1, 2):
        for places in combinations(range(len(counts)), min(moves, len(counts))):
            for steps in product(_MOVES, repeat=len(places)):
                moved = list(counts)
                for place, step in zip(places, steps, strict=True):
                    moved[place] = max(1, moved[place] + step)
                yield tuple(moved)
