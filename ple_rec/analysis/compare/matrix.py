"""The variants of a comparison as training runs: same data and tasks, equal cost, a single-task baseline among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ple_rec.analysis.compare.equal_cost import Cost, check_size, cost_of, matched
from ple_rec.analysis.series import check_checkpoints_apart, config_of_run
from ple_rec.config.choices import Match
from ple_rec.config.compare import CompareConfig, VariantConfig
from ple_rec.config.diff import differences
from ple_rec.config.load import load_config, recipe_names, with_values
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import Task
from ple_rec.data.dataset import Dataset
from ple_rec.errors import Option, UserError
from ple_rec.training.checks import select
from ple_rec.training.model import first_layer

BASELINE = "single_task"
_ALIKE = ("data", "tasks", "evaluation")  # of tasks their names: how their losses count may be what is compared
_OWN = ("name", "seed", "model")  # what variants differ in, before anything else


@dataclass(frozen=True)
class Variant:
    """A model of the comparison.

    Args:
        name: It goes by.
        config: Its run, but for the seed; named after it.
        cost: Of its dense layers.
        sizes: What equal cost made of its sizes, by dotted key.
    """

    name: str
    config: RunConfig
    cost: Cost
    sizes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Matrix:
    """Variants x seeds.

    Args:
        name: Of the comparison.
        variants: By name, in their order.
        seeds: Of every variant.
        match: What is equal.
        reference: Whose cost the others got.
        baseline: Whose metrics gains are over.
        tasks: Of all.
        dataset: Fingerprint of the dataset that all read.
        remarks: What was decided for the user, a sentence each.
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

    @property
    def runs(self) -> list[tuple[Variant, int]]:
        """Every run, all variants with the first seed first, so that what there is can be compared early."""
        return [(variant, seed) for seed in self.seeds for variant in self.variants.values()]


def matrix_of(
    compare: CompareConfig, folder: Path, overrides: Sequence[str] = (), only: Sequence[str] | None = None
) -> Matrix:
    """Read the variants' runs, see that they can be compared, and make their cost equal.

    Args:
        compare: The comparison.
        folder: That paths of its variants start from.
        overrides: Changes of every run's keys, after the variants' own.
        only: Variants that are trained, beside the baseline; the reference stays that of all. None: all.

    Raises:
        UserError: variants that read other data or tasks than the rest, or leave the test split unread, one whose cost
            cannot be made equal, no variant that a single-task baseline could be made of, or runs that would keep
            their checkpoints in one place.
        ConfigError: problems of a variant's configuration.
        DataError: the dataset is damaged.
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
    dataset = Dataset(config.data.path)
    selection = select(config, dataset)
    names = [task.name for task in selection.tasks]

    def priced(name: str, config: RunConfig) -> Variant:
        width, _ = first_layer(config, selection)
        check_size(config, names, width)
        return Variant(name, config, cost_of(config, names, width))

    variants = {name: priced(name, config) for name, config in configs.items()}
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
    found = Matrix(
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
    check_checkpoints_apart(config_of_run(variant.config, seed) for variant, seed in found.runs)
    return found


def _named_config(compare: CompareConfig, name: str, folder: Path, overrides: Sequence[str]) -> RunConfig:
    """A variant's run; what is wrong with it is told with the variant's name, since several may share a base."""
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
        values["runtime.threads"] = 1  # runs stand side by side, and however many do, each gives the same bits
    return with_values(config, values)


def _first(configs: Mapping[str, RunConfig], variant: str) -> str | None:
    return next((name for name, config in configs.items() if config.model.variant == variant), None)


def _single_task(config: RunConfig, name: str, own: str) -> tuple[RunConfig, list[int]]:
    """The run with a bottom per task in the place of its model, as deep and wide as a path through its experts.

    Also gives the sizes of the bottoms.
    """
    model = config.model.model_dump(mode="json", exclude_none=True)
    levels = model.get("levels") or [model]
    bottom = [size for level in levels for size in level.get("expert_hidden") or level.get("bottom") or ()]
    kept = {key: model[key] for key in ("activation", "dropout", "input_dropout", "tower") if key in model}
    if not bottom:
        raise UserError(
            "variants",
            f"no single_task, and {name} ({config.model.variant}) has no experts to size one by",
            "gains are over single-task",
            "add a variant whose model is single_task",
        )
    return with_values(config, {"model": kept | {"variant": "single_task", "bottom": bottom}, "name": own}), bottom


def _check_alike(configs: Mapping[str, RunConfig], reference: str) -> None:
    """Refuse variants that are not of the same samples and tasks."""
    for name, config in configs.items():
        for key in _ALIKE:
            own, others = getattr(config, key), getattr(configs[reference], key)
            if key == "tasks" and [task.name for task in own] == [task.name for task in others]:
                continue
            if own != others:
                paths = key == "data" and own.path != others.path
                what = f"data.path = {own.path!r}" if paths else f"another [{key}]"
                there = f"{others.path!r}" if paths else "its own"
                raise UserError(
                    f"variants.{name}",
                    f"has {what}; {reference} has {there}",
                    "variants are compared on the same samples and tasks",
                    f"give all the same, by the comparison's `overrides` or {Option.OVERRIDES}",
                )


def _other_differences(variants: Mapping[str, Variant], reference: str, config: RunConfig) -> list[str]:
    """What else variants differ in, a sentence each: it is compared with the models."""
    remarks = []
    for name, variant in variants.items():
        found = (key for key, _, _ in differences(config, variant.config))
        if keys := [key for key in found if key.split(".")[0].split("[")[0] not in _OWN]:
            remarks.append(f"{name} differs from {reference} in {', '.join(keys)} too")
    return remarks


def _equal(variant: Variant, target: Cost, by: Literal["flops", "params"], tasks: Sequence[str], width: int) -> Variant:
    config, sizes = matched(variant.config, target, by, tasks, width)
    return replace(variant, config=config, cost=cost_of(config, tasks, width), sizes=sizes)
