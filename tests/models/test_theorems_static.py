"""What must hold between the variants that mix alike for every sample, and inside each, in fp64."""

from __future__ import annotations

import re
from typing import Literal

import pytest
import torch
from torch import Tensor

from ple_rec.config.model import (
    AsymmetricConfig,
    CrossStitchConfig,
    CustomizedConfig,
    HardSharingConfig,
    SingleTaskConfig,
    SluiceConfig,
    TaskExpertLevelConfig,
    TowerConfig,
)
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.extraction import ExtractionLevel
from tests.models.literal_copy import gradients_of_task, slices
from tests.models.samples import dense_batch, dense_model

WIDTH, BATCH, TASKS = 6, 8, ("a", "b", "c")
X_BD = torch.randn(BATCH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TOWER = TowerConfig(hidden=(4,), activation="tanh")  # relu may be dead in so small a model


def _stitch(*hidden: tuple[int, ...], per_channel: bool = False) -> CrossStitchConfig:
    levels = tuple(TaskExpertLevelConfig(expert_hidden=sizes) for sizes in hidden)
    return CrossStitchConfig(
        variant="cross_stitch", levels=levels, per_channel=per_channel, activation="tanh", tower=TOWER
    )


def _sluice(*hidden: tuple[int, ...], subspaces: int) -> SluiceConfig:
    levels = tuple(TaskExpertLevelConfig(expert_hidden=sizes) for sizes in hidden)
    return SluiceConfig(variant="sluice", levels=levels, subspaces=subspaces, activation="tanh", tower=TOWER)


def _asymmetric(
    donors: dict[str, tuple[str, ...]], combine: Literal["concat", "sum", "mean"], *, circular: bool = False
) -> AsymmetricConfig:
    return AsymmetricConfig(
        variant="asymmetric",
        bottom=(5, 4),
        donors=donors,
        combine=combine,
        circular=circular,
        activation="tanh",
        tower=TOWER,
    )


def _single(*bottom: int) -> MultiTaskModel:
    return dense_model(SingleTaskConfig(variant="single_task", bottom=bottom, activation="tanh", tower=TOWER), TASKS, 6)


def _logits(model: MultiTaskModel) -> Tensor:
    logits_BK: Tensor = model(dense_batch(X_BD))[0]
    return logits_BK


def _copy(source: dict[str, Tensor], model: MultiTaskModel, names: dict[str, str]) -> None:
    """Give `model` the values of `source`, by the model's name or by another of `names`; the rest stays as it is."""
    with torch.no_grad():
        for name, value in slices(model).items():
            if (other := names.get(name, name)) in source:
                value.copy_(source[other])


def _stir(model: MultiTaskModel) -> None:
    """Move the learned factors away from their start, where many are equal."""
    with torch.no_grad():
        for name, value in slices(model).items():
            if ".alpha." in name:
                value += torch.randn_like(value)


@pytest.mark.parametrize("per_channel", [False, True])
def test_cross_stitch_with_identity_is_single_task(per_channel: bool) -> None:
    single, stitch = _single(5, 4, 3), dense_model(_stitch((5,), (4, 3), per_channel=per_channel), TASKS, WIDTH, seed=5)
    names = {
        f"levels.{level}.experts.{task}.0.layers.{layer}.{kind}": f"levels.0.experts.{task}.0.layers.{of}.{kind}"
        for level, layer, of in ((0, 0, 0), (1, 0, 1), (1, 1, 2))
        for task in TASKS
        for kind in ("weight", "bias")
    }
    _copy(slices(single), stitch, names)
    assert not torch.allclose(_logits(stitch), _logits(single))
    with torch.no_grad():
        for name, value in slices(stitch).items():
            if ".alpha." in name:
                value.fill_(float(name.split(".")[-1] == name.split(".")[-2]))
    torch.testing.assert_close(_logits(stitch), _logits(single), rtol=1e-12, atol=1e-14)
    for task in range(3):
        ours, theirs = gradients_of_task(stitch, X_BD, task), gradients_of_task(single, X_BD, task)
        for name in theirs:
            of = {other: key for key, other in names.items()}.get(name, name)
            torch.testing.assert_close(ours[of], theirs[name], rtol=1e-11, atol=1e-14)


def test_sluice_of_one_level_and_one_subspace_is_cross_stitch() -> None:
    sluice, stitch = dense_model(_sluice((5, 4), subspaces=1), TASKS, WIDTH), dense_model(_stitch((5, 4)), TASKS, 6, 5)
    stitch.load_state_dict(sluice.state_dict())
    assert torch.equal(_logits(stitch), _logits(sluice))
    assert sluice.dense_parameters() == stitch.dense_parameters()


@pytest.mark.parametrize("level", [0, 1])
def test_sluice_of_one_subspace_that_reads_one_level_is_cross_stitch_up_to_there(level: int) -> None:
    sluice = dense_model(_sluice((5, 4), (4,), subspaces=1), TASKS, WIDTH)
    _stir(sluice)
    stitch = dense_model(_stitch(*[(5, 4), (4,)][: level + 1]), TASKS, WIDTH, seed=5)
    # Factors are between subspaces there, between tasks here.
    names = {name: re.sub(r"alpha\.(.)\.(.)", r"alpha.\1.0.\2.0", name) for name in slices(stitch)}
    _copy(slices(sluice), stitch, names)
    assert not torch.allclose(_logits(stitch), _logits(sluice))
    assert sluice.extraction.level_mixing is not None
    with torch.no_grad():
        sluice.extraction.level_mixing.logits.fill_(-torch.inf)[:, level] = 0
    assert torch.equal(_logits(stitch), _logits(sluice))
    for task in range(3):
        ours, theirs = gradients_of_task(sluice, X_BD, task), gradients_of_task(stitch, X_BD, task)
        theirs = {names[name]: gradient for name, gradient in theirs.items()}
        for name, gradient in ours.items():
            torch.testing.assert_close(gradient, theirs.pop(name, torch.zeros_like(gradient)), rtol=1e-12, atol=1e-14)
        assert not theirs


@pytest.mark.parametrize("per_level", [(3,), (5, 3)])
def test_stitching_by_equal_channels_is_stitching_by_a_scalar(per_level: tuple[int, ...]) -> None:
    scalar = dense_model(_stitch(per_level, (4,)), TASKS, WIDTH)
    channels = dense_model(_stitch(per_level, (4,), per_channel=True), TASKS, WIDTH, seed=5)
    _stir(scalar)
    _copy(slices(scalar), channels, {})
    torch.testing.assert_close(_logits(channels), _logits(scalar), rtol=1e-12, atol=1e-14)
    ours, theirs = gradients_of_task(channels, X_BD, 1), gradients_of_task(scalar, X_BD, 1)
    for name, gradient in ours.items():
        gradient = gradient.sum() if ".alpha." in name else gradient
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("combine", ["concat", "sum", "mean"])
def test_a_task_without_donors_is_single_task(combine: Literal["concat", "sum", "mean"]) -> None:
    single, model = _single(5, 4), dense_model(_asymmetric({"b": ("a", "c")}, combine), TASKS, WIDTH, seed=5)
    bottoms_and_own_towers = {k: v for k, v in slices(single).items() if not k.startswith("towers.b.0.")}
    _copy(bottoms_and_own_towers, model, {})
    # The towers read values that are equal, but not side by side in the same way: another order of sums is allowed.
    torch.testing.assert_close(_logits(model)[:, [0, 2]], _logits(single)[:, [0, 2]], rtol=1e-12, atol=1e-14)
    assert not torch.isclose(_logits(model)[:, 1], _logits(single)[:, 1]).any()
    assert model.extraction.widths == [4, 12 if combine == "concat" else 4, 4]


def test_the_mean_over_all_tasks_is_the_same_for_all_and_the_average_of_their_bottoms() -> None:
    everyone = {k: tuple(i for i in TASKS if i != k) for k in TASKS}
    model = dense_model(_asymmetric(everyone, "mean", circular=True), TASKS, WIDTH)
    outputs, (a_BOE,) = model.extraction(X_BD)
    h_BEH = model.extraction.levels[0].experts([X_BD])  # type: ignore[operator]
    for y_BH in outputs:
        torch.testing.assert_close(y_BH, h_BEH.mean(1), rtol=1e-13, atol=1e-15)
    assert torch.equal(a_BOE, torch.full((BATCH, 3, 3), 1 / 3, dtype=torch.float64))


def test_the_mean_of_equal_bottoms_is_hard_sharing() -> None:
    hard = dense_model(
        HardSharingConfig(variant="hard_sharing", bottom=(5, 4), activation="tanh", tower=TOWER), TASKS, WIDTH
    )
    model = dense_model(_asymmetric({"b": ("a", "c"), "c": ("a",)}, "mean"), TASKS, WIDTH, seed=5)
    _copy(slices(hard), model, {name: re.sub(r"experts\..\.", "experts.shared.", name) for name in slices(model)})
    torch.testing.assert_close(_logits(model), _logits(hard), rtol=1e-12, atol=1e-14)


def test_an_asymmetric_relation_has_a_direction() -> None:
    model = dense_model(_asymmetric({"b": ("a",)}, "concat"), TASKS, WIDTH)
    reached = {"a": {"a"}, "b": {"a", "b"}, "c": {"c"}}
    for k, task in enumerate(TASKS):
        for name, gradient in gradients_of_task(model, X_BD, k).items():
            kind, owner = name.split(".")[0], name.split(".")[1 if name.startswith("towers") else 3]
            assert gradient.any() == (owner in (reached[task] if kind == "levels" else {task})), name


@pytest.mark.parametrize("task", range(3))
def test_in_customized_a_task_reaches_its_own_bottom_and_the_shared_one_alone(task: int) -> None:
    config = CustomizedConfig(variant="customized", bottom=(5, 4), activation="tanh", tower=TOWER)
    for name, gradient in gradients_of_task(dense_model(config, TASKS, WIDTH), X_BD, task).items():
        owner = name.split(".")[1 if name.startswith("towers") else 3]
        assert gradient.any() == (owner in (TASKS[task], "shared")), name


@pytest.mark.parametrize("config", [_stitch((5,), (4,)), _sluice((5, 4), (4,), subspaces=2)], ids=lambda c: c.variant)
def test_in_cross_stitch_and_sluice_a_task_reaches_every_bottom(config: CrossStitchConfig | SluiceConfig) -> None:
    for name, gradient in gradients_of_task(dense_model(config, TASKS, WIDTH), X_BD, 0).items():
        place = name.split(".")
        others = {"b", "c"} if place[0] in ("towers", "beta") or place[:3] == ["levels", "1", "alpha"] else set()
        reader = place[3] if place[0] == "levels" else place[1]
        assert gradient.any() == (reader not in others), name


def _penalty(model: MultiTaskModel) -> float:
    penalty = model.extraction.penalty()
    assert penalty is not None
    return float(penalty.detach())


def test_subspaces_with_orthogonal_weights_have_no_penalty_and_others_have() -> None:
    model = dense_model(_sluice((4,), (5, 4), subspaces=2), TASKS, WIDTH)
    lower, upper = model.extraction.levels
    assert isinstance(lower, ExtractionLevel)
    assert isinstance(upper, ExtractionLevel)
    with torch.no_grad():
        for weight in (lower.experts.first_weights[0].view(3, 4, 6), upper.experts.deep_weights[0]):
            q = torch.linalg.qr(torch.randn(3, weight.shape[2], 4, dtype=torch.float64))[0].transpose(1, 2)
            # Inside a subspace the weights need not be orthogonal.
            weight.copy_(torch.block_diag(torch.randn(2, 2), torch.randn(2, 2)).double() @ q)
    assert 0 <= _penalty(model) < 1e-28
    with torch.no_grad():
        upper.experts.deep_weights[0][1, 3] += 3 * upper.experts.deep_weights[0][1, 0]
    w = upper.experts.deep_weights[0][1].detach()
    expected = 0.01 * ((w[0] @ w[3]) ** 2 + (w[1] @ w[3]) ** 2)
    assert _penalty(model) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("change", [{"subspaces": 1}, {"orthogonality": 0.0}])
def test_one_subspace_or_no_weight_is_no_penalty(change: dict[str, float]) -> None:
    config = _sluice((4,), (4,), subspaces=2).model_copy(update=change)
    assert dense_model(config, TASKS, WIDTH).extraction.penalty() is None


def test_the_other_variants_have_no_penalty() -> None:
    assert _single(5, 4).extraction.penalty() is None
    assert dense_model(_stitch((5,), (4,)), TASKS, WIDTH).extraction.penalty() is None
