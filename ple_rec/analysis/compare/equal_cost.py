"""Cost of a variant in FLOPs or parameters, and the widths at which it costs what another one does.

All widths of its experts (bottoms) are multiplied by one common factor and rounded. Where rounding alone leaves more
than half a percent, single widths are moved by a step or two. Towers and the numbers of experts stay; gates follow the
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


By = Literal["flops", "params"]

TOLERANCE = 0.01  # of the target; what is farther off is refused
AIM = TOLERANCE / 2
_MOVES = (-1, 1, -2, 2)  # steps of a single width
UNITS: dict[By, tuple[str, str]] = {
    "flops": ("flops_per_sample", "FLOPs a sample"),
    "params": ("dense_parameters", "dense parameters"),
}

Counts = tuple[int, ...]  # of every width, in its steps


@dataclass(frozen=True)
class _Width:
    """A width that can be chosen, wherever it stands.

    Args:
        places: Key of the sizes, and which of the layers.
        count: What it is in the configuration, in steps.
        step: What it is a multiple of.
    """

    places: tuple[tuple[str, int], ...]
    count: int
    step: int = 1


def matched(
    config: RunConfig, target: Cost, by: By, tasks: Sequence[str], width: int
) -> tuple[RunConfig, dict[str, list[int]]]:
    """The run with the widths at which its dense layers cost what the target does.

    Args:
        config: The variant; its sizes give the proportions. One that costs the target already stays as it is.
        target: Of the reference.
        by: What is to agree.
        tasks: Names of the tasks.
        width: Of x.

    Returns:
        The run, and those sizes of it that changed, by key.

    Raises:
        UserError: no widths come within one percent.
    """
    field, unit = UNITS[by]
    wanted: int = getattr(target, field)
    widths = _widths(config)

    @cache
    def cost(counts: Counts) -> int:
        found: int = getattr(cost_of(_with_counts(config, widths, counts), tasks, width), field)
        return found

    def gap(counts: Counts) -> float:
        return cost(counts) / wanted - 1

    best = _scaled(widths, gap)
    if abs(gap(best)) > AIM:
        best = _moved(best, gap)
    found = _with_counts(config, widths, best)
    before, after = sizes_of(config), sizes_of(found)
    if abs(gap(best)) > TOLERANCE:
        narrowest = max(best) == 1 and gap(best) > 0
        raise UserError(
            f"{config.name} (model.variant {config.model.variant})",
            f"comes no nearer to {wanted:,} {unit} than {cost(best):,} ({100 * gap(best):+.1f} %), at "
            + ", ".join(f"{key} = {hidden}" for key, hidden in after.items()),
            "variants of equal cost agree within 1 %, and "
            + ("this one costs more even at its narrowest" if narrowest else "these widths are too few, and too small"),
            f"give it {'fewer experts or smaller towers' if narrowest else 'more experts, or two layers'}, "
            'take a larger reference, or set match = "none"',
        )
    return found, {key: hidden for key, hidden in after.items() if hidden != before[key]}


def _widths(config: RunConfig) -> list[_Width]:
    sizes, model = sizes_of(config), config.model
    if not isinstance(model, SluiceConfig):
        return [_Width(((key, i),), size) for key, hidden in sizes.items() for i, size in enumerate(hidden)]
    # It mixes its levels, whose outputs so have one width, of whole subspaces.
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


def _scaled(widths: Sequence[_Width], gap: Callable[[Counts], float]) -> Counts:
    """By the common factor that comes nearest: cost grows with every width, so bisection finds where it passes 0."""

    def at(factor: float) -> Counts:
        return tuple(max(1, round(width.count * factor)) for width in widths)

    low, high = 0.0, 1.0
    while gap(at(high)) < 0:
        low, high = high, 2 * high
    while at(low) != at(high) and high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if gap(at(middle)) < 0 else (low, middle)
    return min(at(low), at(high), key=lambda counts: abs(gap(counts)))


def _moved(start: Counts, gap: Callable[[Counts], float]) -> Counts:
    """With one or two widths moved, again and again while that comes nearer and half a percent is not reached."""
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
                changed = list(counts)
                for place, step in zip(places, steps, strict=True):
                    changed[place] = max(1, changed[place] + step)
                yield tuple(changed)
