"""Eq. 10, and uncertainty weighting against Kendall's equations written with sigma, in fp64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ple_rec.config.run import TaskConfig
from ple_rec.models.losses import LOSSES, UNCERTAINTY_FACTORS
from ple_rec.models.weighting import WEIGHTINGS, Uncertainty, Weighting, task_weights

NAMES = ("cross_entropy", "mse", "huber")
LOSSES_K = torch.tensor([0.45, 3.0, 0.02], dtype=torch.float64)
SCHEDULED_K = torch.tensor([1.0, 0.25, 3.0], dtype=torch.float64)
S_K = torch.tensor([-0.8, 1.3, 0.4], dtype=torch.float64)
ALL_K = torch.tensor([True, True, True])


def _uncertainty(s_K: Tensor = S_K) -> Uncertainty:
    weighting = Uncertainty(NAMES).double()
    weighting.log_variance_K.data.copy_(s_K)
    return weighting


def _weighting(name: str) -> Weighting:
    return _uncertainty() if name == "uncertainty" else WEIGHTINGS[name](NAMES)


def _backward(weighting: Uncertainty, present_K: Tensor = ALL_K, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """L, dL/dL_k and dL/ds_k; a task that is not present has loss 0, as the objective makes it."""
    losses_K = torch.where(present_K, LOSSES_K, 0.0).requires_grad_()
    total = weighting(losses_K, scale * SCHEDULED_K, present_K)
    by_loss_K, by_s_K = torch.autograd.grad(total, [losses_K, weighting.log_variance_K])
    return total.detach(), by_loss_K, by_s_K


def test_task_weights_decay_by_gamma() -> None:
    tasks = [TaskConfig(name="a", weight=2.0, decay=0.5), TaskConfig(name="b"), TaskConfig(name="c", decay=1.1)]
    assert task_weights(tasks, 0) == [2.0, 1.0, 1.0]
    assert task_weights(tasks, 3) == pytest.approx([0.25, 1.0, 1.331])


def test_the_schedule_alone_is_eq_8_and_has_nothing_to_train_or_to_save() -> None:
    weighting = _weighting("schedule")
    assert float(weighting(LOSSES_K, SCHEDULED_K, ALL_K)) == pytest.approx(1 * 0.45 + 0.25 * 3 + 3 * 0.02, rel=1e-12)
    assert torch.equal(weighting.weights(SCHEDULED_K), SCHEDULED_K)
    assert list(weighting.parameters()) == []
    assert weighting.state_dict() == {}


def test_uncertainty_and_its_gradients_are_kendalls_equations() -> None:
    """Classification: L / sigma^2 + log sigma. Regression: ||y - f||^2 / (2 sigma^2) + log sigma; huber has its 1/2."""
    sigma_K = torch.exp(S_K / 2).requires_grad_()
    losses_K = LOSSES_K.clone().requires_grad_()
    terms: list[Callable[[Tensor, Tensor], Tensor]] = [
        lambda loss, sigma: 1 / sigma**2 * loss + torch.log(sigma),
        lambda loss, sigma: 1 / (2 * sigma**2) * loss + torch.log(sigma),
        lambda loss, sigma: 1 / (2 * sigma**2) * (2 * loss) + torch.log(sigma),
    ]
    kendall = sum(SCHEDULED_K[k] * term(losses_K[k], sigma_K[k]) for k, term in enumerate(terms))
    assert isinstance(kendall, Tensor)
    by_loss_K, by_sigma_K = torch.autograd.grad(kendall, [losses_K, sigma_K])

    total, our_by_loss_K, by_s_K = _backward(_uncertainty())
    torch.testing.assert_close(total, kendall.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(our_by_loss_K, by_loss_K, rtol=1e-12, atol=0)
    torch.testing.assert_close(by_s_K, by_sigma_K * sigma_K.detach() / 2, rtol=1e-12, atol=1e-15)  # dsigma/ds


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_of_a_regression_it_is_the_likelihood_of_gaussian_noise(loss: str) -> None:
    generator = torch.Generator().manual_seed(0)
    z_B, y_B = torch.randn(2, 30, dtype=torch.float64, generator=generator)
    delta = 1e3 if loss == "huber" else None  # beyond every error
    task = TaskConfig(name="t", loss=loss, huber_delta=delta)  # type: ignore[arg-type]
    loss_1 = LOSSES[loss](task)(z_B, y_B).mean().reshape(1)
    weighting = Uncertainty([loss]).double()
    weighting.log_variance_K.data.fill_(0.6)
    noise = torch.distributions.Normal(z_B, math.exp(0.3))
    expected = -noise.log_prob(y_B).mean() - math.log(2 * math.pi) / 2
    torch.testing.assert_close(weighting(loss_1, torch.ones(1), torch.tensor([True])), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_at_the_minimum_a_weight_is_half_the_inverse_of_its_loss(scale: float) -> None:
    weighting = _uncertainty()
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.2 / scale)
    for _ in range(1500):
        optimizer.zero_grad()
        weighting(LOSSES_K, scale * SCHEDULED_K, ALL_K).backward()
        optimizer.step()
    expected_K = scale * SCHEDULED_K / (2 * LOSSES_K)
    torch.testing.assert_close(weighting.weights(scale * SCHEDULED_K).detach(), expected_K, rtol=1e-9, atol=0)
    variance_K = 2 * torch.tensor([1.0, 0.5, 1.0]) * LOSSES_K
    torch.testing.assert_close(weighting.log_variance_K.detach().exp(), variance_K, rtol=1e-9, atol=0)


def test_the_schedule_multiplies_both_terms() -> None:
    once, twice = _backward(_uncertainty()), _backward(_uncertainty(), scale=2.0)
    for one, two in zip(once, twice, strict=True):
        torch.testing.assert_close(two, 2 * one, rtol=1e-14, atol=0)
    for k in range(len(NAMES)):
        weighting, alone_K = _uncertainty(), SCHEDULED_K * (torch.arange(len(NAMES)) == k)
        weighting(LOSSES_K, alone_K, ALL_K).backward()
        by_s_K = weighting.log_variance_K.grad
        assert by_s_K is not None
        assert by_s_K[k] == once[2][k]
        assert by_s_K.count_nonzero() == 1


@pytest.mark.parametrize("absent", range(3))
def test_a_task_that_is_absent_adds_exactly_0_and_moves_nothing_of_its_own(absent: int) -> None:
    present_K = torch.arange(3) != absent
    total, _, by_s_K = _backward(_uncertainty(), present_K)
    _, _, all_by_s_K = _backward(_uncertainty())
    assert by_s_K[absent] == 0
    assert torch.equal(by_s_K[present_K], all_by_s_K[present_K])
    assert (by_s_K[present_K] != 0).all()
    other_K = torch.where(present_K, S_K, -5.0)
    assert torch.equal(_backward(_uncertainty(other_K), present_K)[0], total)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weights_are_the_slopes_in_the_losses(name: str) -> None:
    weighting = _weighting(name)
    losses_K = LOSSES_K.clone().requires_grad_()
    weighting(losses_K, SCHEDULED_K, ALL_K).backward()
    assert losses_K.grad is not None
    torch.testing.assert_close(losses_K.grad, weighting.weights(SCHEDULED_K).detach(), rtol=1e-14, atol=0)


def test_it_starts_at_variance_1_and_knows_every_loss() -> None:
    weighting = Uncertainty(NAMES)
    assert weighting.log_variance_K.tolist() == [0, 0, 0]
    assert weighting.weights(SCHEDULED_K).tolist() == [1.0, 0.125, 3.0]
    assert UNCERTAINTY_FACTORS.keys() == LOSSES.keys()
    assert list(weighting.state_dict()) == ["log_variance_K"]
