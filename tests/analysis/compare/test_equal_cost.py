"""Widths of equal cost, held against torch's counter on the models that they make."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ple_rec.analysis.compare.equal_cost import (
    TARGET_TOLERANCE,
    Cost,
    CostUnit,
    compute_cost,
    layer_sizes,
    match_cost,
    with_layer_sizes,
)
from ple_rec.config.load import load_config
from ple_rec.config.model import LevelConfig, MmoeConfig, PleConfig, SluiceConfig, TaskExpertLevelConfig, TowerConfig
from ple_rec.config.run import DataConfig, RunConfig, TrainConfig
from ple_rec.errors import UserError
from ple_rec.models.variants import VARIANTS
from tests.models.samples import dense_batch, dense_model, every_variant

WIDTH = 200
TWO = ("income", "never_married")
FOUR = (*TWO, "like", "share")
OPTIONS = [name for name in every_variant((6,), ()) if " " in name]  # `asymmetric sum`, ...


@cache
def recipe(variant: str) -> RunConfig:
    return load_config(RunConfig, f"census-{variant.replace('_', '-')}")


def run_of(model: Any, **train: Any) -> RunConfig:
    return RunConfig(
        name="run", data=DataConfig(path="dataset"), model=model, train=TrainConfig(batch_size=8, steps=1, **train)
    )


def counted(config: RunConfig, tasks: tuple[str, ...], width: int = WIDTH) -> Cost:
    """By torch, on the real model, and by what it holds."""
    model = dense_model(config.model, tasks, width)
    with FlopCounterMode(display=False) as counter:
        model(dense_batch(torch.zeros(2, width, dtype=torch.float64), len(tasks)))
    return Cost(counter.get_total_flops() // 2, sum(p.numel() for p in model.parameters() if p.requires_grad))


@cache
def cost_of_ple(tasks: tuple[str, ...]) -> Cost:
    return counted(recipe("ple"), tasks)


@pytest.mark.parametrize("tasks", [TWO, FOUR], ids=["two tasks", "four tasks"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_costs_what_ple_does(variant: str, tasks: tuple[str, ...]) -> None:
    target = cost_of_ple(tasks)
    assert compute_cost(recipe("ple"), tasks, WIDTH) == target
    for by, field in (("flops", "flops_per_sample"), ("params", "dense_parameters")):
        config, changed = match_cost(recipe(variant), target, by, tasks, WIDTH)  # type: ignore[arg-type]
        cost = counted(config, tasks)
        assert compute_cost(config, tasks, WIDTH) == cost
        assert getattr(cost, field) == pytest.approx(getattr(target, field), rel=TARGET_TOLERANCE)
        assert bool(changed) == (variant != "ple")
        assert layer_sizes(config) == layer_sizes(recipe(variant)) | changed
        assert with_layer_sizes(recipe(variant), layer_sizes(config)) == config  # nothing else differs


@pytest.mark.parametrize("variant", OPTIONS)
def test_every_option_of_a_variant_too(variant: str) -> None:
    run = run_of(every_variant((24, 16), (5,))[variant])
    target = Cost(60_000, 30_000)
    config, _ = match_cost(run, target, "flops", ("a", "b"), 50)
    assert counted(config, ("a", "b"), 50).flops_per_sample == pytest.approx(60_000, rel=0.01)


def test_proportions_are_kept() -> None:
    _, changed = match_cost(recipe("single_task"), compute_cost(recipe("ple"), TWO, WIDTH), "flops", TWO, WIDTH)
    first, last = changed["model.bottom"]
    assert first / last == pytest.approx(2, rel=0.03)
    assert first > 256


def test_sluice_keeps_one_output_width_of_whole_subspaces() -> None:
    levels = tuple(TaskExpertLevelConfig(expert_hidden=hidden) for hidden in ((40, 24), (24,)))
    model = SluiceConfig(variant="sluice", subspaces=3, levels=levels)
    config, changed = match_cost(run_of(model), Cost(100_000, 0), "flops", TWO, 30)
    (_, output), (same,) = changed.values()
    assert output == same
    assert output % 3 == 0
    assert counted(config, TWO, 30).flops_per_sample == pytest.approx(100_000, rel=0.01)


def test_single_widths_are_moved_where_the_common_factor_is_too_coarse() -> None:
    levels = (LevelConfig(expert_hidden=(8,)),) * 2
    run = run_of(PleConfig(variant="ple", levels=levels, tower=TowerConfig(hidden=())))
    target = compute_cost(with_layer_sizes(run, dict(zip(layer_sizes(run), ([16], [13]), strict=True))), TWO, 6)
    config, changed = match_cost(run, target, "flops", TWO, 6)
    both_alike = [
        compute_cost(with_layer_sizes(run, {key: [n] for key in layer_sizes(run)}), TWO, 6) for n in range(8, 24)
    ]
    assert all(abs(cost.flops_per_sample / target.flops_per_sample - 1) > 0.01 for cost in both_alike)
    assert compute_cost(config, TWO, 6).flops_per_sample == pytest.approx(target.flops_per_sample, rel=0.01)
    assert all(abs(hidden[0] - 15) <= 3 for hidden in changed.values())


def test_learned_loss_weights_are_parameters_of_both() -> None:
    plain, learned = (run_of(recipe("mmoe").model, loss_weighting=kind) for kind in ("schedule", "uncertainty"))
    assert compute_cost(learned, FOUR, 10).dense_parameters == compute_cost(plain, FOUR, 10).dense_parameters + 4


@pytest.mark.parametrize(
    ("by", "target", "tower", "closest", "fix"),
    [
        ("flops", 3_000, (), "3,000 FLOPs a sample than 3,048 (+1.6 %), at model.expert_hidden = [3]", "two layers"),
        ("params", 4_000, (1500,), "4,000 dense parameters than 9,905 (+147.6 %), at model.expert_hidden = [1]", "few"),
    ],
)
def test_what_cannot_be_matched_names_variant_target_and_the_closest(
    by: CostUnit, target: int, tower: tuple[int, ...], closest: str, fix: str
) -> None:
    run = run_of(MmoeConfig(variant="mmoe", experts=3, expert_hidden=(2,), tower=TowerConfig(hidden=tower)))
    with pytest.raises(UserError, match=r"^run \(model\.variant mmoe\): ") as error:
        match_cost(run, Cost(target, target), by, TWO, 100)
    assert error.value.value == f"comes no nearer to {closest}"
    assert fix in error.value.fix
    assert 'match = "none"' in error.value.fix
