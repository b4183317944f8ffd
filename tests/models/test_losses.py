"""Masked losses against a loop over samples, in fp64; what lies outside a sample space; Eq. 10."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ple_rec.config.run import TaskConfig
from ple_rec.models.losses import LOSSES, loss_sums_K, task_weights, total_loss, weight_BK

LOSS_NAMES = ("cross_entropy", "mse", "cross_entropy")
TASK_WEIGHTS = (1.0, 0.25, 3.0)
NAN = float("nan")


def _samples(batch: int = 40, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, labels, spaces and sample weights; spaces of quite different sizes."""
    generator = torch.Generator().manual_seed(seed)
    logits_BK = 3 * torch.randn(batch, 3, dtype=torch.float64, generator=generator)
    labels_BK = torch.rand(batch, 3, dtype=torch.float64, generator=generator)
    labels_BK[:, [0, 2]] = labels_BK[:, [0, 2]].round()
    share_K = torch.tensor([1.0, 0.6, 0.2], dtype=torch.float64)
    in_space_BK = (torch.rand(batch, 3, dtype=torch.float64, generator=generator) < share_K).double()
    weight_B = torch.rand(batch, dtype=torch.float64, generator=generator) * 2
    weight_B[3] = 0
    return logits_BK, labels_BK, in_space_BK, weight_B


def _loop(
    logits_BK: Tensor, labels_BK: Tensor, in_space_BK: Tensor, weight_B: Tensor | None
) -> tuple[float, list[list[float]]]:
    """L of Eq. 8-9 and dL/dlogit, sample by sample."""
    total, gradient = 0.0, [[0.0] * 3 for _ in logits_BK]
    for k, name in enumerate(LOSS_NAMES):
        weights = [
            float(in_space_BK[i, k]) * (1.0 if weight_B is None else float(weight_B[i])) for i in range(len(logits_BK))
        ]
        for i, weight in enumerate(weights):
            if weight == 0:
                continue
            z, y = float(logits_BK[i, k]), float(labels_BK[i, k])
            p = 1 / (1 + math.exp(-z))
            value = -y * math.log(p) - (1 - y) * math.log(1 - p) if name == "cross_entropy" else (z - y) ** 2
            slope = p - y if name == "cross_entropy" else 2 * (z - y)
            total += TASK_WEIGHTS[k] * weight * value / sum(weights)
            gradient[i][k] = TASK_WEIGHTS[k] * weight * slope / sum(weights)
    return total, gradient


def _ours(
    logits_BK: Tensor,
    labels_BK: Tensor,
    in_space_BK: Tensor,
    weight_B: Tensor | None,
    counts_K: Tensor | None = None,
    world_size: int = 1,
) -> tuple[Tensor, Tensor]:
    leaf_BK = logits_BK.clone().requires_grad_()
    weights_BK = weight_BK(in_space_BK, weight_B)
    sums_K = loss_sums_K(LOSS_NAMES, leaf_BK, labels_BK, weights_BK)
    counts_K = weights_BK.sum(0) if counts_K is None else counts_K
    loss = total_loss(sums_K, counts_K, torch.tensor(TASK_WEIGHTS, dtype=torch.float64), world_size)
    loss.backward()
    assert leaf_BK.grad is not None
    return loss.detach(), leaf_BK.grad


@pytest.mark.parametrize("weighted", [True, False])
def test_loss_and_gradient_are_those_of_a_loop_over_samples(weighted: bool) -> None:
    logits_BK, labels_BK, in_space_BK, weight_B = _samples()
    weights = weight_B if weighted else None
    value, gradient = _loop(logits_BK, labels_BK, in_space_BK, weights)
    loss, gradient_BK = _ours(logits_BK, labels_BK, in_space_BK, weights)
    assert loss.item() == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(gradient_BK, torch.tensor(gradient, dtype=torch.float64), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("parts", [(40,), (25, 15), (3, 30, 7)])
def test_the_average_over_ranks_of_unequal_counts_is_the_gradient_of_the_whole(parts: tuple[int, ...]) -> None:
    samples = _samples()
    loss, gradient_BK = _ours(*samples)
    counts_K = weight_BK(samples[2], samples[3]).sum(0)
    pieces = zip(*(part.split(parts) for part in samples), strict=True)
    ranks = [_ours(z, y, d, s, counts_K, len(parts)) for z, y, d, s in pieces]
    average_BK = torch.cat([gradient for _, gradient in ranks]) / len(parts)
    torch.testing.assert_close(average_BK, gradient_BK, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.stack([value for value, _ in ranks]).mean(), loss, rtol=1e-12, atol=0)


@pytest.mark.parametrize("poison", [NAN, math.inf, -math.inf])
def test_what_is_outside_the_space_contributes_exactly_nothing(poison: float) -> None:
    logits_BK, labels_BK, in_space_BK, weight_B = _samples()
    loss, gradient_BK = _ours(logits_BK, labels_BK, in_space_BK, weight_B)
    outside_BK = weight_BK(in_space_BK, weight_B) == 0
    assert outside_BK.sum() > 30
    assert outside_BK[3].all()  # in every space, but of weight 0
    logits_BK[outside_BK] = labels_BK[outside_BK] = poison
    poisoned, poisoned_BK = _ours(logits_BK, labels_BK, in_space_BK, weight_B)
    assert torch.equal(poisoned, loss)
    assert torch.equal(poisoned_BK, gradient_BK)
    assert not poisoned_BK[outside_BK].any()


def test_a_task_without_a_sample_has_exactly_no_loss_and_no_gradient() -> None:
    logits_BK, labels_BK, in_space_BK, weight_B = _samples()
    in_space_BK[:, 1] = 0
    logits_BK[:, 1] = labels_BK[:, 1] = NAN
    sums_K = loss_sums_K(LOSS_NAMES, logits_BK, labels_BK, weight_BK(in_space_BK, weight_B))
    assert sums_K[1] == 0
    loss, gradient_BK = _ours(logits_BK, labels_BK, in_space_BK, weight_B)
    value, gradient = _loop(logits_BK, labels_BK, in_space_BK, weight_B)
    assert loss.item() == pytest.approx(value, rel=1e-12)
    assert not gradient_BK[:, 1].any()
    torch.testing.assert_close(gradient_BK, torch.tensor(gradient, dtype=torch.float64), rtol=1e-11, atol=1e-15)


def test_an_empty_batch_has_loss_zero() -> None:
    logits_BK, labels_BK, in_space_BK, weight_B = _samples()
    loss, gradient_BK = _ours(logits_BK, labels_BK, torch.zeros_like(in_space_BK), weight_B)
    assert loss == 0
    assert not gradient_BK.any()


def test_cross_entropy_of_extreme_logits_is_finite() -> None:
    values_B = LOSSES["cross_entropy"](torch.tensor([1000.0, -1000.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
    assert values_B.tolist() == pytest.approx([1000.0, 0.0, math.log(2)])


def test_fp32_labels_fit_fp64_logits() -> None:
    logits_BK, labels_BK, in_space_BK, _ = _samples()
    labels_BK = labels_BK.float().double()
    mixed_K = loss_sums_K(LOSS_NAMES, logits_BK, labels_BK.float(), in_space_BK.float())
    torch.testing.assert_close(mixed_K, loss_sums_K(LOSS_NAMES, logits_BK, labels_BK, in_space_BK), rtol=1e-12, atol=0)


def test_task_weights_decay_by_gamma() -> None:
    tasks = [TaskConfig(name="a", weight=2.0, decay=0.5), TaskConfig(name="b"), TaskConfig(name="c", decay=1.1)]
    assert task_weights(tasks, 0) == [2.0, 1.0, 1.0]
    assert task_weights(tasks, 3) == pytest.approx([0.25, 1.0, 1.331])
