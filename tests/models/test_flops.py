"""Counted FLOPs and parameters against torch's own counter and against what the model holds."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ple_rec.models.variants import VARIANTS
from tests.models.samples import EVERY, dense_batch, dense_model, every_variant

SIZES = {"single layers": ((8,), ()), "deep": ((12, 6), (5,)), "three layers": ((9, 7, 9), (6, 3))}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("variant", EVERY)
@pytest.mark.parametrize(("batch", "width"), [(3, 10), (8, 1)])
def test_flops_per_sample_is_what_torch_counts(variant: str, size: str, batch: int, width: int) -> None:
    hidden, tower = SIZES[size]
    model = dense_model(every_variant(hidden, tower)[variant], ("a", "b"), width)
    with FlopCounterMode(display=False) as counter:
        model(dense_batch(torch.zeros(batch, width, dtype=torch.float64)))
    assert counter.get_total_flops() == batch * model.flops_per_sample()
    assert model.flops_per_sample() > 0


@pytest.mark.parametrize("variant", EVERY)
def test_dense_parameters_is_what_the_model_holds(variant: str) -> None:
    model = dense_model(every_variant((12, 6), (5,))[variant], ("a", "b"), 10)
    assert model.dense_parameters() == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_parameters_and_flops_of_a_cgc_by_hand() -> None:
    # 2 tasks x 2 own + 1 shared experts of 10 -> 12 -> 6; two gates of 10 -> 3; towers 6 -> 5 -> 1.
    model = dense_model(every_variant((12, 6), (5,))["cgc"], ("a", "b"), 10)
    assert model.dense_parameters() == 5 * (10 * 12 + 12 + 12 * 6 + 6) + 2 * 30 + 2 * (6 * 5 + 5 + 5 + 1)
    assert model.flops_per_sample() == 2 * (5 * (120 + 72) + 2 * 30 + 2 * 5 * 6 + 2 * (30 + 5))


def test_parameters_and_flops_of_a_sluice_by_hand() -> None:
    # 2 tasks; 10 -> 12 -> 6, then 6 -> 6; per level a 4 x 4 matrix over subspaces of 3; towers 6 -> 5 -> 1.
    model = dense_model(every_variant((12, 6), (5,))["sluice"], ("a", "b"), 10)
    experts = (10 * 12 + 12 + 12 * 6 + 6) + (6 * 6 + 6)
    assert model.dense_parameters() == 2 * experts + 2 * 16 + 2 * 2 + 2 * (6 * 5 + 5 + 5 + 1)
    mixing = 2 * 16 * 3 + 2 * 2 * 6
    assert model.flops_per_sample() == 2 * (2 * (120 + 72 + 36) + mixing + 2 * (30 + 5))


def test_parameters_and_flops_of_an_ml_mmoe_by_hand() -> None:
    # 3 experts of 10 -> 12 -> 6, two gates over them; 2 experts of 6 -> 6 -> 12, two gates over them; all gates read x.
    model = dense_model(every_variant((12, 6), (5,))["ml_mmoe"], ("a", "b"), 10)
    experts = 3 * (10 * 12 + 12 + 12 * 6 + 6) + 2 * (6 * 6 + 6 + 6 * 12 + 12)
    gates = 2 * 3 * 10 + 2 * 2 * 10
    assert model.dense_parameters() == experts + gates + 2 * (12 * 5 + 5 + 5 + 1)
    products = 3 * (120 + 72) + 2 * (36 + 72) + gates + 2 * 3 * 6 + 2 * 2 * 12 + 2 * (60 + 5)
    assert model.flops_per_sample() == 2 * products


def test_no_variant_is_left_out() -> None:
    assert {name.split()[0] for name in EVERY} == set(VARIANTS)
