"""What a step minimises, against a loop over samples in fp64; and the parts of several ranks against the whole."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from ple_rec.config.model import SluiceConfig, TaskExpertLevelConfig
from ple_rec.models.losses import loss_sums_K, loss_weights_BK
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.models.objective import objective
from ple_rec.models.weighting import WEIGHTINGS
from tests.models.loss_samples import NAMES, OURS, literal, samples
from tests.models.samples import dense_model

TASK_WEIGHTS = torch.tensor([1.0, 0.25, 3.0, 0.5], dtype=torch.float64)
FACTORS = torch.tensor([1.0, 0.5, 1.0, 1.0], dtype=torch.float64)
S_K = torch.tensor([0.3, -1.1, 0.6, 2.0], dtype=torch.float64)
LAMBDA = 0.3
NAN = float("nan")
Gradients = dict[str, Tensor]


def _model(weighting: str, orthogonality: float = LAMBDA) -> MultiTaskModel:
    """Sluice, whose penalty counts; experts of one and of two layers."""
    levels = (TaskExpertLevelConfig(expert_hidden=(6,)), TaskExpertLevelConfig(expert_hidden=(5, 6)))
    config = SluiceConfig(variant="sluice", levels=levels, subspaces=3, orthogonality=orthogonality)
    model = dense_model(config, [f"t{k}" for k in range(len(NAMES))], 3)
    model.weighting = WEIGHTINGS[weighting](NAMES).double()
    for s_K in model.weighting.parameters():
        s_K.data.copy_(S_K)
    return model


def _weighted(weighting: str, losses_K: Tensor, present_K: Tensor, s_K: Tensor) -> Tensor:
    """The sum over tasks of the module's documentation, one at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for k in range(len(NAMES)):
        if not present_K[k]:
            continue
        if weighting == "schedule":
            total = total + TASK_WEIGHTS[k] * losses_K[k]
        else:
            total = total + TASK_WEIGHTS[k] * (FACTORS[k] * torch.exp(-s_K[k]) * losses_K[k] + s_K[k] / 2)
    return total


def _penalty(model: MultiTaskModel, subspaces: int = 3, width: int = 6) -> Tensor:
    """lambda sum over levels, experts and pairs of subspaces a < b of ||W_a^T W_b||_F^2, W inputs x (H / G)."""
    total = torch.zeros((), dtype=torch.float64)
    first, second = (level.experts for level in model.extraction.levels)
    experts = [*first.first_weights[0].split(width), *second.deep_weights[0].unbind(0)]  # type: ignore[union-attr, index]
    assert len(experts) == 2 * len(NAMES)
    for weight_HI in experts:
        parts = weight_HI.T.split(width // subspaces, dim=1)
        for a, b in itertools.combinations(range(subspaces), 2):
            total = total + (parts[a].T @ parts[b]).square().sum()
    return LAMBDA * total


def _ours(
    model: MultiTaskModel,
    logits_BK: Tensor,
    labels_BK: Tensor,
    in_space_BK: Tensor,
    weight_B: Tensor | None,
    counts_K: Tensor | None = None,
    ranks: int = 1,
) -> tuple[Tensor, Gradients]:
    """L, and its gradient in the logits and in every parameter that has one."""
    leaf_BK = logits_BK.clone().requires_grad_()
    weights_BK = loss_weights_BK(in_space_BK, weight_B)
    sums_K = loss_sums_K(OURS, leaf_BK, labels_BK, weights_BK)
    counts_K = weights_BK.sum(0) if counts_K is None else counts_K
    model.zero_grad()
    loss = objective(model, sums_K, counts_K, TASK_WEIGHTS, ranks)
    loss.backward()
    assert leaf_BK.grad is not None
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients | {"logits": leaf_BK.grad}


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_it_is_that_of_a_loop_over_samples(weighting: str, weighted: bool) -> None:
    model = _model(weighting)
    logits_BK, labels_BK, in_space_BK, weight_B = samples()
    weights = weight_B if weighted else None
    sums_K, counts_K, slopes_BK = literal(logits_BK, labels_BK, in_space_BK, weights)

    losses_K, s_K = (sums_K / counts_K).requires_grad_(), S_K.clone().requires_grad_()
    expected = _weighted(weighting, losses_K, counts_K > 0, s_K) + _penalty(model)
    expected.backward()
    penalised = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert losses_K.grad is not None
    expected_BK = losses_K.grad * slopes_BK / counts_K

    loss, gradients = _ours(model, logits_BK, labels_BK, in_space_BK, weights)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients.pop("logits"), expected_BK, rtol=1e-11, atol=1e-15)
    if weighting == "uncertainty":
        torch.testing.assert_close(gradients.pop("weighting.log_variance_K"), s_K.grad, rtol=1e-12, atol=1e-15)
    assert len(penalised) == 2  # the last layers of both levels' experts
    assert gradients.keys() == penalised.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, penalised[name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("parts", [(40,), (25, 15), (3, 30, 7)])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_average_over_ranks_of_unequal_counts_is_the_whole(weighting: str, parts: tuple[int, ...]) -> None:
    """Of the losses, and of what every rank has alike: the penalty, and the log-variances' own term."""
    model = _model(weighting)
    whole = samples()
    loss, gradients = _ours(model, *whole)
    counts_K = loss_weights_BK(whole[2], whole[3]).sum(0)
    pieces = zip(*(part.split(parts) for part in whole), strict=True)
    ranks = [_ours(model, z, y, d, s, counts_K, len(parts)) for z, y, d, s in pieces]
    average_BK = torch.cat([found.pop("logits") for _, found in ranks]) / len(parts)
    torch.testing.assert_close(average_BK, gradients.pop("logits"), rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.stack([value for value, _ in ranks]).mean(), loss, rtol=1e-12, atol=0)
    assert len(gradients) == (3 if weighting == "uncertainty" else 2)
    for name, gradient in gradients.items():
        average = torch.stack([found[name] for _, found in ranks]).mean(0)
        torch.testing.assert_close(average, gradient, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("poison", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_what_is_outside_the_space_contributes_exactly_nothing(weighting: str, poison: float) -> None:
    model = _model(weighting)
    logits_BK, labels_BK, in_space_BK, weight_B = samples()
    loss, gradients = _ours(model, logits_BK, labels_BK, in_space_BK, weight_B)
    outside_BK = loss_weights_BK(in_space_BK, weight_B) == 0
    logits_BK[outside_BK] = labels_BK[outside_BK] = poison
    poisoned, poisoned_gradients = _ours(model, logits_BK, labels_BK, in_space_BK, weight_B)
    assert torch.equal(poisoned, loss)
    assert [name for name in gradients if not torch.equal(gradients[name], poisoned_gradients[name])] == []


@pytest.mark.parametrize("task", range(len(NAMES)))
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_task_without_a_sample_has_exactly_no_loss_and_no_gradient(weighting: str, task: int) -> None:
    model = _model(weighting)
    logits_BK, labels_BK, in_space_BK, weight_B = samples()
    in_space_BK[:, task] = 0
    logits_BK[:, task] = labels_BK[:, task] = NAN
    loss, gradients = _ours(model, logits_BK, labels_BK, in_space_BK, weight_B)
    sums_K, counts_K, _ = literal(logits_BK, labels_BK, in_space_BK, weight_B)
    present_K = torch.arange(len(NAMES)) != task
    losses_K = torch.where(present_K, sums_K / counts_K, 0.0)
    expected = _weighted(weighting, losses_K, present_K, S_K) + _penalty(model).detach()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert not gradients["logits"][:, task].any()
    if weighting == "uncertainty":
        assert gradients["weighting.log_variance_K"].ne(0).tolist() == present_K.tolist()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_of_an_empty_batch_the_penalty_alone_is_left(weighting: str) -> None:
    logits_BK, labels_BK, in_space_BK, weight_B = samples()
    nothing_BK = torch.zeros_like(in_space_BK)
    for orthogonality in (0.0, LAMBDA):
        model = _model(weighting, orthogonality)
        loss, gradients = _ours(model, logits_BK, labels_BK, nothing_BK, weight_B)
        penalty = _penalty(model).detach()
        assert penalty > 0
        torch.testing.assert_close(loss, penalty if orthogonality else torch.zeros_like(loss), rtol=1e-12, atol=0)
        assert not gradients["logits"].any()
        if weighting == "uncertainty":
            assert not gradients["weighting.log_variance_K"].any()
