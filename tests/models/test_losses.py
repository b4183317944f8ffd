"""Each loss, and its masked sums against a loop over samples in fp64; what lies outside a sample space."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ple_rec.config.base import TaskKind
from ple_rec.config.run import TaskConfig
from ple_rec.models.losses import LOSSES, TASK_KINDS_BY_LOSS, Loss, loss_sums_K, loss_weights_BK
from tests.models.loss_samples import DELTA, NAMES, OURS, literal, samples

NAN = float("nan")
DELTAS = (0.3, 1.0, 7.0)
TASK = TaskConfig(name="t")


def _sums(logits_BK: Tensor, labels_BK: Tensor, in_space_BK: Tensor, weight_B: Tensor | None) -> tuple[Tensor, Tensor]:
    """The sums of the samples, and their slope in every logit."""
    leaf_BK = logits_BK.clone().requires_grad_()
    sums_K = loss_sums_K(OURS, leaf_BK, labels_BK, loss_weights_BK(in_space_BK, weight_B))
    sums_K.sum().backward()
    assert leaf_BK.grad is not None
    return sums_K.detach(), leaf_BK.grad


def _huber(delta: float | None) -> Loss:
    return LOSSES["huber"](TaskConfig(name="t", loss="huber", huber_delta=delta))


def _errors(delta: float) -> list[float]:
    """0, small, at delta, a hair to either side of it, large."""
    sizes = [0.0, delta / 7, delta * (1 - 1e-9), delta, delta * (1 + 1e-9), 2 * delta, 1e6]
    return [sign * size for size in sizes for sign in (1.0, -1.0)]


@pytest.mark.parametrize("weighted", [True, False])
def test_sums_and_slopes_are_those_of_a_loop_over_samples(weighted: bool) -> None:
    logits_BK, labels_BK, in_space_BK, weight_B = samples()
    weights = weight_B if weighted else None
    expected_K, counts_K, slopes_BK = literal(logits_BK, labels_BK, in_space_BK, weights)
    sums_K, gradient_BK = _sums(logits_BK, labels_BK, in_space_BK, weights)
    torch.testing.assert_close(sums_K, expected_K, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient_BK, slopes_BK, rtol=1e-11, atol=1e-15)
    torch.testing.assert_close(loss_weights_BK(in_space_BK, weights).sum(0), counts_K, rtol=1e-12, atol=0)


def test_samples_have_errors_on_both_sides_of_hubers_delta() -> None:
    logits_BK, labels_BK, in_space_BK, _ = samples()
    k = NAMES.index("huber")
    size_B = (logits_BK - labels_BK)[in_space_BK[:, k] > 0, k].abs()
    assert 2 < (size_B < DELTA).sum() < len(size_B) - 2


@pytest.mark.parametrize("poison", [NAN, math.inf, -math.inf])
def test_what_is_outside_the_space_contributes_exactly_nothing(poison: float) -> None:
    logits_BK, labels_BK, in_space_BK, weight_B = samples()
    sums_K, gradient_BK = _sums(logits_BK, labels_BK, in_space_BK, weight_B)
    outside_BK = loss_weights_BK(in_space_BK, weight_B) == 0
    assert outside_BK.sum() > 30
    assert outside_BK[3].all()  # in every space, but of weight 0
    logits_BK[outside_BK] = labels_BK[outside_BK] = poison
    poisoned_K, poisoned_BK = _sums(logits_BK, labels_BK, in_space_BK, weight_B)
    assert torch.equal(poisoned_K, sums_K)
    assert torch.equal(poisoned_BK, gradient_BK)
    assert not poisoned_BK[outside_BK].any()


@pytest.mark.parametrize("task", range(len(NAMES)))
def test_a_task_without_a_sample_has_sum_0_and_no_gradient(task: int) -> None:
    logits_BK, labels_BK, in_space_BK, weight_B = samples()
    in_space_BK[:, task] = 0
    logits_BK[:, task] = labels_BK[:, task] = NAN
    sums_K, gradient_BK = _sums(logits_BK, labels_BK, in_space_BK, weight_B)
    expected_K, _, slopes_BK = literal(logits_BK, labels_BK, in_space_BK, weight_B)
    assert sums_K[task] == 0
    assert not gradient_BK[:, task].any()
    torch.testing.assert_close(sums_K, expected_K, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient_BK, slopes_BK, rtol=1e-11, atol=1e-15)


def test_fp32_labels_fit_fp64_logits() -> None:
    logits_BK, labels_BK, in_space_BK, _ = samples()
    labels_BK = labels_BK.float().double()
    mixed_K = loss_sums_K(OURS, logits_BK, labels_BK.float(), in_space_BK.float())
    assert mixed_K.dtype == torch.float64
    torch.testing.assert_close(mixed_K, loss_sums_K(OURS, logits_BK, labels_BK, in_space_BK), rtol=1e-12, atol=0)


def test_cross_entropy_of_extreme_logits_is_finite() -> None:
    values_B = LOSSES["cross_entropy"](TASK)(torch.tensor([1000.0, -1000.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
    assert values_B.tolist() == pytest.approx([1000.0, 0.0, math.log(2)])


@pytest.mark.parametrize("delta", DELTAS)
def test_huber_is_its_formula_at_and_around_delta(delta: float) -> None:
    label_B = torch.linspace(-3, 3, len(_errors(delta)), dtype=torch.float64)
    error_B = torch.tensor(_errors(delta), dtype=torch.float64)
    z_B = (label_B + error_B).requires_grad_()
    values_B = _huber(delta)(z_B, label_B)
    values_B.sum().backward()
    formula = [e * e / 2 if abs(e) <= delta else delta * (abs(e) - delta / 2) for e in error_B.tolist()]
    assert values_B.tolist() == pytest.approx(formula, rel=1e-9, abs=1e-15)
    torch.testing.assert_close(values_B, F.huber_loss(z_B, label_B, reduction="none", delta=delta), rtol=0, atol=0)
    assert z_B.grad is not None
    assert z_B.grad.tolist() == pytest.approx([max(-delta, min(delta, e)) for e in error_B.tolist()], abs=1e-9)
    assert z_B.grad.abs().max() == delta


@pytest.mark.parametrize("delta", DELTAS)
def test_the_pieces_of_huber_meet_at_delta_and_the_first_is_half_of_mse(delta: float) -> None:
    nothing = torch.zeros(1, dtype=torch.float64)
    below, above = (_huber(delta)(nothing + delta * (1 + side), nothing) for side in (-1e-12, 1e-12))
    assert 0 < float(above - below) < 1e-10 * delta**2 + 1e-11
    error_B = torch.linspace(-delta, delta, 21, dtype=torch.float64)
    torch.testing.assert_close(
        2 * _huber(delta)(error_B, nothing.expand(21)), LOSSES["mse"](TASK)(error_B, nothing.expand(21))
    )


def test_hubers_delta_is_1_unless_given_and_each_tasks_own() -> None:
    error_B, label_B = torch.tensor([10.0]), torch.tensor([0.0])
    assert _huber(None)(error_B, label_B).tolist() == [9.5]
    narrow, wide = _huber(0.5), _huber(20.0)
    assert narrow(error_B, label_B).tolist() == [4.875]
    assert wide(error_B, label_B).tolist() == [50.0]


def test_every_loss_says_which_kinds_of_task_it_is_for() -> None:
    assert TASK_KINDS_BY_LOSS.keys() == LOSSES.keys()
    defaults = {
        kind: next(name for name in TASK_KINDS_BY_LOSS if kind in TASK_KINDS_BY_LOSS[name])
        for kind in get_args(TaskKind)
    }
    assert defaults == {"binary": "cross_entropy", "regression": "mse"}
