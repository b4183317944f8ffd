"""Cost of a variant (model configuration) in FLOPs or parameters, and layer widths that make these costs equal.

`match_cost` multiplies all widths of a variant's experts (or bottom layers) by one factor and rounds them. If its cost
then differs from the target by more than half a percent, single widths are changed by a step or two. The towers and the
numbers of experts stay as they are; the sizes of gates follow from the widths of the experts. Two variants within half
a percent of one target are within one percent of each other.
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
from ple_rec.training.model import min_dense_parameters

# Weights are in fp32.
_BYTES_PER_WEIGHT = 4

# Number of batches for a measurement of gradient conflict, half of the default of `ple-rec analyze`, since a run of a
# comparison measures the conflict at every evaluation.
CONFLICT_BATCHES = 10


@dataclass(frozen=True)
class Cost:
    """Cost of experts, gates and towers.

    Embedding tables, their look-ups, projections of vectors and attention over histories are left out: they do not
    depend on the widths of the experts.

    Args:
        flops_per_sample: Forward FLOPs of the matrix products of one sample, two per multiply-add.
        dense_parameters: Number of trained parameters outside the embedding tables.
    """

    flops_per_sample: int
    dense_parameters: int


def compute_cost(config: RunConfig, tasks: Sequence[str], input_width: int) -> Cost:
    """Return the cost of a run's model, which is built on the meta device and counted as in training.

    Args:
        config: Configuration of the run; the dataset that it names is not read.
        tasks: Names of its tasks.
        input_width: Width of the first level's input: pooled embeddings, dense features and projected vectors
            (`training.model.first_layer_shape`).

    Raises:
        UserError: A task has a reserved name.
    """
    with torch.device("meta"):
        # The number of weights does not depend on the losses.
        weighting = WEIGHTINGS[config.train.loss_weighting](["mse"] * len(tasks))
        model = MultiTaskModel(config.model, tasks, None, [DenseStatistics("none")] * input_width, weighting=weighting)
    return Cost(model.flops_per_sample(), model.dense_parameters())


def check_size(config: RunConfig, tasks: Sequence[str], input_width: int) -> None:
    """Raise an error if the dense layers do not fit this machine, before counting their cost would take all memory.

    Args:
        config: Configuration of a run.
        tasks: Names of its tasks.
        input_width: Width of the first level's input.

    Raises:
        UserError: The weights of the dense layers are larger than the memory.
    """
    memory = usable_memory_bytes()
    if torch.cuda.is_available():
        devices = range(torch.cuda.device_count())
        memory = max(memory, *(torch.cuda.get_device_properties(i).total_memory for i in devices))
    needed = _BYTES_PER_WEIGHT * min_dense_parameters(config, tasks, input_width)
    if needed > memory:
        raise UserError(
            f"{config.name} (embeddings.dim, model)",
            f"the weights of the dense layers, which read all embeddings, take at least {gib(needed)}",
            f"a run of a comparison trains on one machine, and this one has {gib(memory)}",
            "use a smaller embeddings.dim, or narrower layers in [model]",
        )


def conflict_samples(batch_size: int, tasks: int) -> float:
    """Return the number of training samples that take as long as one measurement of gradient conflict.

    It is 0 for a single task, which has no conflict.
    """
    # In units of a forward pass: one forward pass, and for each task a backward pass of twice the FLOPs. A training
    # step takes 3 units for each sample.
    passes = 1 + 2 * tasks
    return CONFLICT_BATCHES * batch_size * passes / 3 if tasks > 1 else 0.0


def layer_sizes(config: RunConfig) -> dict[str, list[int]]:
    """Return the layer sizes of experts or bottoms by configuration key, such as `model.levels[0].expert_hidden`."""
    model: Any = config.model
    if hasattr(model, "levels"):
        return {f"model.levels[{i}].expert_hidden": list(level.expert_hidden) for i, level in enumerate(model.levels)}
    name = _sizes_field(model)
    return {f"model.{name}": list(getattr(model, name))}


def with_layer_sizes(config: RunConfig, sizes: Mapping[str, Sequence[int]]) -> RunConfig:
    """Return the run with other layer sizes.

    Args:
        config: Configuration of the run.
        sizes: New sizes by the keys of `layer_sizes`.
    """
    raw = config.model.model_dump(mode="json")
    lists = [list(sizes[key]) for key in layer_sizes(config)]
    if "levels" in raw:
        for level, hidden in zip(raw["levels"], lists, strict=True):
            level["expert_hidden"] = hidden
    else:
        (raw[_sizes_field(config.model)],) = lists
    return config.model_copy(update={"model": type(config.model).model_validate_json(json.dumps(raw))})


def _sizes_field(model: Any) -> str:
    return "bottom" if hasattr(model, "bottom") else "expert_hidden"


CostUnit = Literal["flops", "params"]

# A variant is refused if its cost differs from the target by more than this share.
TOLERANCE = 0.01
# Single widths are changed until the cost differs from the target by this share at most.
TARGET_TOLERANCE = TOLERANCE / 2
_WIDTH_STEPS = (-1, 1, -2, 2)
# Field of `Cost`, and its name in messages.
UNITS: dict[CostUnit, tuple[str, str]] = {
    "flops": ("flops_per_sample", "FLOPs a sample"),
    "params": ("dense_parameters", "dense parameters"),
}

# Count of each `_Width` of a model, in the order of `_widths`.
Counts = tuple[int, ...]


@dataclass(frozen=True)
class _Width:
    """A width that can be chosen, and the layers that have it. The width is `count * step`.

    Args:
        places: Each of these layers as a key of `layer_sizes` and an index into the list at that key.
        count: Width in the configuration, in units of `step`.
        step: Number of which the width is a multiple.
    """

    places: tuple[tuple[str, int], ...]
    count: int
    step: int = 1


def match_cost(
    config: RunConfig, target: Cost, by: CostUnit, tasks: Sequence[str], input_width: int
) -> tuple[RunConfig, dict[str, list[int]]]:
    """Return the run with the layer widths at which its dense layers cost as much as the target.

    Args:
        config: Configuration of the variant. Its widths are scaled in proportion.
        target: Cost of the reference.
        by: Kind of cost that is made equal.
        tasks: Names of the tasks.
        input_width: Width of the first level's input.

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
        value: int = getattr(compute_cost(_with_counts(config, widths, counts), tasks, input_width), field)
        return value

    def gap(counts: Counts) -> float:
        # Difference from the target, as a share of the target.
        return cost(counts) / target_cost - 1

    best = _scale(widths, gap)
    if abs(gap(best)) > TARGET_TOLERANCE:
        best = _refine(best, gap)
    matching = _with_counts(config, widths, best)
    before, after = layer_sizes(config), layer_sizes(matching)
    if abs(gap(best)) > TOLERANCE:
        narrowest = max(best) == 1 and gap(best) > 0
        raise UserError(
            f"{config.name} (model.variant {config.model.variant})",
            f"comes no nearer to {target_cost:,} {unit} than {cost(best):,} ({100 * gap(best):+.1f} %), at "
            + ", ".join(f"{key} = {hidden}" for key, hidden in after.items()),
            "the costs of variants are equal within 1 %, and "
            + (
                "this one costs more even with its narrowest layers"
                if narrowest
                else "it has too few layers, or too narrow ones, to come nearer"
            ),
            f"give it {'fewer experts or smaller towers' if narrowest else 'more experts, or two layers'}, "
            'take a larger reference, or set match = "none"',
        )
    return matching, {key: hidden for key, hidden in after.items() if hidden != before[key]}


def _widths(config: RunConfig) -> list[_Width]:
    sizes, model = layer_sizes(config), config.model
    if not isinstance(model, SluiceConfig):
        return [_Width(((key, i),), size) for key, hidden in sizes.items() for i, size in enumerate(hidden)]
    # A sluice network mixes the outputs of its levels, so they have one width, a multiple of the number of subspaces.
    inner = [_Width(((key, i),), size) for key, hidden in sizes.items() for i, size in enumerate(hidden[:-1])]
    outputs = tuple((key, len(hidden) - 1) for key, hidden in sizes.items())
    width = model.levels[0].expert_hidden[-1]
    return [*inner, _Width(outputs, width // model.subspaces, model.subspaces)]


def _with_counts(config: RunConfig, widths: Sequence[_Width], counts: Counts) -> RunConfig:
    sizes = layer_sizes(config)
    for width, count in zip(widths, counts, strict=True):
        for key, layer in width.places:
            sizes[key][layer] = count * width.step
    return with_layer_sizes(config, sizes)


def _scale(widths: Sequence[_Width], gap: Callable[[Counts], float]) -> Counts:
    """Return the counts of the widths times the common factor whose cost is nearest to the target, found by bisection.

    Bisection works, since the cost grows with every width.

    Args:
        widths: Widths in the configuration.
        gap: Function that returns the difference of the cost from the target, as a share of the target.
    """

    def scaled_widths(factor: float) -> Counts:
        return tuple(max(1, round(width.count * factor)) for width in widths)

    low, high = 0.0, 1.0
    while gap(scaled_widths(high)) < 0:
        low, high = high, 2 * high
    while scaled_widths(low) != scaled_widths(high) and high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if gap(scaled_widths(middle)) < 0 else (low, middle)
    return min(scaled_widths(low), scaled_widths(high), key=lambda counts: abs(gap(counts)))


def _refine(start: Counts, gap: Callable[[Counts], float]) -> Counts:
    """Change one or two widths at a time, until the gap is below half a percent or no change makes it smaller."""
    best = start
    while abs(gap(best)) > TARGET_TOLERANCE:
        nearest = min(_neighbours(best), key=lambda counts: abs(gap(counts)))
        if abs(gap(nearest)) >= abs(gap(best)):
            break
        best = nearest
    return best


def _neighbours(counts: Counts) -> Iterator[Counts]:
    """Yield the counts with one or two of them changed by a step or two; a count stays at least 1."""
    for moves in (1, 2):
        for places in combinations(range(len(counts)), min(moves, len(counts))):
            for steps in product(_WIDTH_STEPS, repeat=len(places)):
                moved = list(counts)
                for place, step in zip(places, steps, strict=True):
                    moved[place] = max(1, moved[place] + step)
                yield tuple(moved)
