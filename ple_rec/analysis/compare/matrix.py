"""Variants of a comparison as training runs of the same data, tasks and cost, with a single-task baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ple_rec.analysis.compare.equal_cost import Cost, check_size, cost_of, match_cost, sizes_of
from ple_rec.analysis.series import check_checkpoints_apart, config_of_run
from ple_rec.config.choices import Match
from ple_rec.config.compare import MATCHES, CompareConfig, VariantConfig
from ple_rec.config.diff import differences
from ple_rec.config.load import load_config, recipe_names, with_values
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import Task
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.errors import Option, UserError
from ple_rec.text import aligned
from ple_rec.training.checks import select
from ple_rec.training.model import first_layer

BASELINE = "single_task"
# Variants agree in these tables. Only the names of tasks need to be equal, since a comparison may be one of losses.
_ALIKE = ("data", "tasks", "evaluation")
# Variants always differ in these keys, so a difference needs no remark.
_OWN = ("name", "seed", "model")


@dataclass(frozen=True)
class Variant:
    """A model of the comparison.

    Args:
        name: Name of the variant.
        config: Configuration of its runs without the seed; it has the name of the variant.
        cost: Cost of its dense layers.
        sizes: Layer sizes that equal cost has changed, by dotted key.
    """

    name: str
    config: RunConfig
    cost: Cost
    sizes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Matrix:
    """Variants and seeds of a comparison; every pair of them is a run.

    Args:
        name: Name of the comparison.
        variants: Variants by name, in the order of the file.
        seeds: Seeds of every variant.
        match: Cost in which the variants agree.
        reference: Name of the variant whose cost the others get.
        baseline: Name of the variant over which gains are computed.
        tasks: Tasks of all variants.
        dataset: Fingerprint of the dataset that all read.
        remarks: Sentences about decisions that the user did not make.
    """

    name: str
    variants: Mapping[str, Variant]
    seeds: Sequence[int]
    match: Match
    reference: str
    baseline: str
    tasks: Sequence[Task]
    dataset: str
    remarks: Sequence[str]

    def describe(self) -> str:
        """Return a table of the variants with model, layer sizes and cost, and a line about the cost that is equal."""
        lines = [["", "model", "layer sizes", "FLOPs/sample", "dense parameters"]]
        for variant in self.variants.values():
            sizes = " ".join(str(hidden) for hidden in sizes_of(variant.config).values())
            flops, parameters = variant.cost.flops_per_sample, variant.cost.dense_parameters
            lines.append([variant.name, variant.config.model.variant, sizes, f"{flops:,}", f"{parameters:,}"])
        return "\n".join([*aligned(lines, left=(0, 1, 2)), MATCHES[self.match].format(self.reference)])

    @property
    def runs(self) -> list[tuple[Variant, int]]:
        """Variant and seed of every run, seed by seed, so that all variants can be compared early."""
        return [(variant, seed) for seed in self.seeds for variant in self.variants.values()]


def matrix_of(
    compare: CompareConfig, folder: Path, overrides: Sequence[str] = (), only: Sequence[str] | None = None
) -> Matrix:
    """Read the configurations of the variants, check that they can be compared, and make their cost equal.

    Args:
        compare: Configuration of the comparison.
        folder: Folder that relative paths of its variants start from.
        overrides: Changes of every run's keys, after the variants' own.
        only: Variants that are trained, beside the baseline; None for all. The reference is chosen among all.

    Raises:
        UserError: A variant reads other data or tasks than the rest or leaves the test split unread, the cost of one
            cannot be made equal, a single-task baseline cannot be derived, or two runs would keep their checkpoints in
            one place.
        ConfigError: The configuration of a variant has problems.
        DataError: The dataset is damaged.
    """
    configs = {name: _named_config(compare, name, folder, overrides) for name in compare.variants}
    reference = compare.reference or _first(configs, "ple") or next(iter(configs))
    remarks = []
    baseline = compare.baseline or _first(configs, "single_task")
    if baseline is None:
        baseline = BASELINE if BASELINE not in configs else f"{BASELINE}_baseline"
        added, bottom = _single_task(configs[reference], reference, baseline)
        configs = {baseline: added} | configs
        remarks.append(f"{baseline} is added, as gains are over it: bottoms of {bottom}, else as {reference}")
    _check_alike(configs, reference)
    config = configs[reference]
    if config.evaluation.test is False:
        raise UserError(
            "evaluation.test",
            "got false",
            "gains and their intervals are of the test split",
            "leave it out; the trials of tuning do not read that split anyway",
        )
    dataset = DatasetDirectory(config.data.path)
    selection = select(config, dataset)
    names = [task.name for task in selection.tasks]

    def variant_of(name: str, config: RunConfig) -> Variant:
        width, _ = first_layer(config, selection)
        check_size(config, names, width)
        return Variant(name, config, cost_of(config, names, width))

    variants = {name: variant_of(name, config) for name, config in configs.items()}
    match = compare.match
    if match != "none":
        target, others = variants[reference].cost, [v for v in variants.values() if v.name != reference]
        for variant in others:
            width, _ = first_layer(variant.config, selection)
            variants[variant.name] = _equal(variant, target, match, names, width)
    if only is not None:
        variants = {name: variants[name] for name in variants if name in only or name == baseline}
        if baseline not in only:
            remarks.append(f"{baseline} is trained too, as gains are over it")
    remarks += _other_differences(variants, reference, configs[reference])
    batches = {variant.config.train.batch_size for variant in variants.values()}
    if len(batches) > 1:
        remarks.append("variants have different batch sizes, so the order of samples of a seed is not the same for all")
    matrix = Matrix(
        name=compare.name,
        variants=variants,
        seeds=range(compare.seeds),
        match=compare.match,
        reference=reference,
        baseline=baseline,
        tasks=selection.tasks,
        dataset=dataset.schema.fingerprint,
        remarks=remarks,
    )
    check_checkpoints_apart(config_of_run(variant.config, seed) for variant, seed in matrix.runs)
    return matrix


def _named_config(compare: CompareConfig, name: str, folder: Path, overrides: Sequence[str]) -> RunConfig:
    """Return the configuration of a variant; its errors name the variant, since several may share a base."""
    try:
        return _config(compare, name, folder, overrides)
    except UserError as error:
        raise type(error)(f"variants.{name}: {error.place}", error.value, error.rule, error.fix) from None


def _config(compare: CompareConfig, name: str, folder: Path, overrides: Sequence[str]) -> RunConfig:
    variant: VariantConfig = compare.variants[name]
    source: str | Path = variant.base if variant.base in recipe_names() else folder / variant.base
    setter = f"overrides or {Option.OVERRIDES}" if overrides else "overrides"
    config = load_config(RunConfig, source, [*compare.overrides, *variant.overrides, *overrides], setter=setter)
    values: dict[str, Any] = {"name": name}
    if config.runtime.threads is None:
        # With one thread a run gives the same bits, however many runs are side by side.
        values["runtime.threads"] = 1
    return with_values(config, values)


def _first(configs: Mapping[str, RunConfig], variant: str) -> str | None:
    return next((name for name, config in configs.items() if config.model.variant == variant), None)


def _single_task(config: RunConfig, name: str, baseline: str) -> tuple[RunConfig, list[int]]:
    """Return a single-task run and the sizes of its bottoms, as deep and wide as a path through a variant's experts.

    Args:
        config: Configuration of the variant.
        name: Name of the variant.
        baseline: Name of the new run.
    """
    model = config.model.model_dump(mode="json", exclude_none=True)
    levels = model.get("levels") or [model]
    bottom = [size for level in levels for size in level.get("expert_hidden") or level.get("bottom") or ()]
    settings = {key: model[key] for key in ("activation", "dropout", "input_dropout", "tower") if key in model}
    if not bottom:
        raise UserError(
            "variants",
            f"no single_task, and {name} ({config.model.variant}) has no experts to size one by",
            "gains are over single-task",
            "add a variant whose model is single_task",
        )
    changes = {"model": settings | {"variant": "single_task", "bottom": bottom}, "name": baseline}
    return with_values(config, changes), bottom


def _check_alike(configs: Mapping[str, RunConfig], reference: str) -> None:
    """Refuse variants that differ in their samples or tasks."""
    for name, config in configs.items():
        for key in _ALIKE:
            own, others = getattr(config, key), getattr(configs[reference], key)
            if key == "tasks" and [task.name for task in own] == [task.name for task in others]:
                continue
            if own != others:
                paths = key == "data" and own.path != others.path
                here = f"data.path = {own.path!r}" if paths else f"another [{key}]"
                there = f"{others.path!r}" if paths else "its own"
                raise UserError(
                    f"variants.{name}",
                    f"has {here}; {reference} has {there}",
                    "variants are compared on the same samples and tasks",
                    f"give all the same, by the comparison's `overrides` or {Option.OVERRIDES}",
                )


def _other_differences(variants: Mapping[str, Variant], reference: str, config: RunConfig) -> list[str]:
    """Return a sentence for each variant that differs from the reference in more than its model."""
    remarks = []
    for name, variant in variants.items():
        changed = (key for key, _, _ in differences(config, variant.config))
        if keys := [key for key in changed if key.split(".")[0].split("[")[0] not in _OWN]:
            remarks.append(f"{name} differs from {reference} in {', '.join(keys)} too")
    return remarks


def _equal(variant: Variant, target: Cost, by: Literal["flops", "params"], tasks: Sequence[str], width: int) -> Variant:
    config, sizes = match_cost(variant.config, target, by, tasks, width)
    return replace(variant, config=config, cost=cost_of(config, tasks, width), sizes=sizes)
