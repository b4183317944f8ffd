"""Configurations of a comparison's runs: variants with the same data, tasks and cost, and a single-task baseline.

A variant is one model configuration, and a run is one training of a variant with one seed. `build_matrix` reads the
variants, adds a baseline if there is none, and scales layer widths until all variants cost as much as the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ple_rec.analysis.compare.equal_cost import Cost, check_size, compute_cost, layer_sizes, match_cost
from ple_rec.analysis.series import check_checkpoints_apart, with_seed
from ple_rec.config.choices import Match
from ple_rec.config.compare import MATCHES, CompareConfig, VariantConfig
from ple_rec.config.diff import differences
from ple_rec.config.load import load_config, recipe_names, with_values
from ple_rec.config.run import RunConfig
from ple_rec.config.schema import Task
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.errors import Option, UserError
from ple_rec.text import align_columns
from ple_rec.training.checks import select_run_columns
from ple_rec.training.model import first_layer_shape

BASELINE = "single_task"
# All variants need equal values in these TOML tables. Of `tasks`, only the names need to be equal, so that variants
# may differ in their losses.
_EQUAL_TABLES = ("data", "tasks", "evaluation")
# A difference in these keys is expected, so no remark tells the user of it.
_DIFFERENT_KEYS = ("name", "seed", "model")


@dataclass(frozen=True)
class Variant:
    """A model of the comparison.

    Args:
        name: Name of the variant.
        config: Configuration of its runs without the seed; it has the name of the variant.
        cost: Cost of its dense layers.
        sizes: Layer sizes that were changed to make the cost equal, by dotted key.
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
        match: Kind of cost that is equal for all variants: "flops", "params" or "none".
        reference: Name of the variant whose cost the others are given.
        baseline: Name of the variant over which gains are computed.
        tasks: Tasks of all variants.
        dataset_fingerprint: Fingerprint of the dataset that all variants read.
        remarks: Sentences for the user about choices made here, such as an added baseline.
    """

    name: str
    variants: Mapping[str, Variant]
    seeds: Sequence[int]
    match: Match
    reference: str
    baseline: str
    tasks: Sequence[Task]
    dataset_fingerprint: str
    remarks: Sequence[str]

    def describe(self) -> str:
        """Return a table of the variants as text, and a line that says which cost is equal."""
        lines = [["", "model", "layer sizes", "FLOPs/sample", "dense parameters"]]
        for variant in self.variants.values():
            sizes = " ".join(str(hidden) for hidden in layer_sizes(variant.config).values())
            flops, parameters = variant.cost.flops_per_sample, variant.cost.dense_parameters
            lines.append([variant.name, variant.config.model.variant, sizes, f"{flops:,}", f"{parameters:,}"])
        return "\n".join([*align_columns(lines, left_columns=(0, 1, 2)), MATCHES[self.match].format(self.reference)])

    @property
    def runs(self) -> list[tuple[Variant, int]]:
        """Variant and seed of every run, seed by seed, so that all variants can be compared early."""
        return [(variant, seed) for seed in self.seeds for variant in self.variants.values()]


def build_matrix(
    compare: CompareConfig, folder: Path, overrides: Sequence[str] = (), trained_variants: Sequence[str] | None = None
) -> Matrix:
    """Read the configurations of the variants, check that they can be compared, and make their cost equal.

    Args:
        compare: Configuration of the comparison.
        folder: Folder to which relative paths in the configuration are relative.
        overrides: Changes of every run's configuration, applied after those of the variant.
        trained_variants: Names of the variants to keep; the baseline is always kept. None for all. The others still
            count for the choice of the reference.

    Raises:
        UserError: The variants differ in data or tasks, the test split is not evaluated, a cost cannot be made equal,
            a model does not fit this machine, a single-task baseline cannot be derived, or two runs would keep their
            checkpoints in one place.
        ConfigError: The configuration of a variant has problems.
        DataError: The dataset is damaged.
    """
    configs = {name: _load_variant(compare, name, folder, overrides) for name in compare.variants}
    reference = compare.reference or _first_with_model(configs, "ple") or next(iter(configs))
    remarks = []
    baseline = compare.baseline or _first_with_model(configs, "single_task")
    if baseline is None:
        baseline = BASELINE if BASELINE not in configs else f"{BASELINE}_baseline"
        added, bottom = _single_task_config(configs[reference], reference, baseline)
        configs = {baseline: added} | configs
        remarks.append(
            f"{baseline} is added as the baseline of all gains, "
            f"with bottom layers {bottom}; other keys as in {reference}"
        )
    _check_alike(configs, reference)
    config = configs[reference]
    if config.evaluation.test is False:
        raise UserError(
            "evaluation.test",
            "got false",
            "gains and their intervals are computed on the test split",
            "leave it out; the trials of tuning never read that split",
        )
    dataset = DatasetDirectory(config.data.path)
    selection = select_run_columns(config, dataset)
    names = [task.name for task in selection.tasks]

    def variant_of(name: str, config: RunConfig) -> Variant:
        width, _ = first_layer_shape(config, selection)
        check_size(config, names, width)
        return Variant(name, config, compute_cost(config, names, width))

    variants = {name: variant_of(name, config) for name, config in configs.items()}
    match = compare.match
    if match != "none":
        target, others = variants[reference].cost, [v for v in variants.values() if v.name != reference]
        for variant in others:
            width, _ = first_layer_shape(variant.config, selection)
            variants[variant.name] = _with_equal_cost(variant, target, match, names, width)
    if trained_variants is not None:
        variants = {name: variants[name] for name in variants if name in trained_variants or name == baseline}
        if baseline not in trained_variants:
            remarks.append(f"{baseline} is trained too, since it is the baseline of all gains")
    remarks += _other_differences(variants, reference, configs[reference])
    batches = {variant.config.train.batch_size for variant in variants.values()}
    if len(batches) > 1:
        remarks.append("variants have different batch sizes, so runs of one seed read the samples in different orders")
    matrix = Matrix(
        name=compare.name,
        variants=variants,
        seeds=range(compare.seeds),
        match=compare.match,
        reference=reference,
        baseline=baseline,
        tasks=selection.tasks,
        dataset_fingerprint=dataset.schema.fingerprint,
        remarks=remarks,
    )
    check_checkpoints_apart(with_seed(variant.config, seed) for variant, seed in matrix.runs)
    return matrix


def _load_variant(compare: CompareConfig, name: str, folder: Path, overrides: Sequence[str]) -> RunConfig:
    """Load the configuration of a variant. An error names the variant."""
    try:
        return _read_variant(compare, name, folder, overrides)
    except UserError as error:
        raise type(error)(f"variants.{name}: {error.place}", error.value, error.rule, error.fix) from None


def _read_variant(compare: CompareConfig, name: str, folder: Path, overrides: Sequence[str]) -> RunConfig:
    variant: VariantConfig = compare.variants[name]
    source: str | Path = variant.base if variant.base in recipe_names() else folder / variant.base
    setter = f"overrides or {Option.OVERRIDES}" if overrides else "overrides"
    config = load_config(RunConfig, source, [*compare.overrides, *variant.overrides, *overrides], overrides_name=setter)
    values: dict[str, Any] = {"name": name}
    if config.runtime.threads is None:
        # With one thread, results are identical to the bit, however many runs train in parallel.
        values["runtime.threads"] = 1
    return with_values(config, values)


def _first_with_model(configs: Mapping[str, RunConfig], variant: str) -> str | None:
    return next((name for name, config in configs.items() if config.model.variant == variant), None)


def _single_task_config(config: RunConfig, name: str, baseline: str) -> tuple[RunConfig, list[int]]:
    """Return the configuration of a single-task baseline, and the sizes of its bottom layers.

    The bottom of each task has the layer sizes of one path through the experts of a variant.

    Args:
        config: Configuration of the variant.
        name: Name of the variant.
        baseline: Name of the baseline.

    Raises:
        UserError: The variant has no experts.
    """
    model = config.model.model_dump(mode="json", exclude_none=True)
    levels = model.get("levels") or [model]
    bottom = [size for level in levels for size in level.get("expert_hidden") or level.get("bottom") or ()]
    settings = {key: model[key] for key in ("activation", "dropout", "input_dropout", "tower") if key in model}
    if not bottom:
        raise UserError(
            "variants",
            f"no single_task, and {name} ({config.model.variant}) has no experts from which to take its layer sizes",
            "the baseline of gains is a single-task model",
            "add a variant whose model is single_task",
        )
    changes = {"model": settings | {"variant": "single_task", "bottom": bottom}, "name": baseline}
    return with_values(config, changes), bottom


def _check_alike(configs: Mapping[str, RunConfig], reference: str) -> None:
    """Refuse variants that differ in their samples or tasks."""
    for name, config in configs.items():
        for key in _EQUAL_TABLES:
            own, others = getattr(config, key), getattr(configs[reference], key)
            if key == "tasks" and [task.name for task in own] == [task.name for task in others]:
                continue
            if own != others:
                paths = key == "data" and own.path != others.path
                own_text = f"data.path = {own.path!r}" if paths else f"a table [{key}] of its own"
                reference_text = f"{others.path!r}" if paths else "another one"
                raise UserError(
                    f"variants.{name}",
                    f"has {own_text}; {reference} has {reference_text}",
                    "variants are compared on the same samples and tasks",
                    f"make it the same for all variants, by the comparison's `overrides` or {Option.OVERRIDES}",
                )


def _other_differences(variants: Mapping[str, Variant], reference: str, config: RunConfig) -> list[str]:
    """Return a sentence for each variant that differs from the reference in more than its model."""
    remarks = []
    for name, variant in variants.items():
        changed = (key for key, _, _ in differences(config, variant.config))
        if keys := [key for key in changed if key.split(".")[0].split("[")[0] not in _DIFFERENT_KEYS]:
            remarks.append(f"{name} differs from {reference} in {', '.join(keys)} too")
    return remarks


def _with_equal_cost(
    variant: Variant, target: Cost, by: Literal["flops", "params"], tasks: Sequence[str], width: int
) -> Variant:
    config, sizes = match_cost(variant.config, target, by, tasks, width)
    return replace(variant, config=config, cost=compute_cost(config, tasks, width), sizes=sizes)
