"""Layers of experts in bfloat16 as one operation: the three steps, rounded once; without it, the steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ple_rec.modules import fused_linear
from ple_rec.modules.fused_linear import linear_relu, packed
from ple_rec.modules.relu_bank import relu_bank

BF16, EPSILON = torch.bfloat16, 2**-8  # half a unit in the last place, relative
FUSED = linear_relu(BF16)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(BF16)


def _rounded_once(found: Tensor, exact: Tensor) -> None:
    """`exact` in doubles; sums in fp32 are exact to far less than a bit of bfloat16."""
    assert found.dtype == BF16
    torch.testing.assert_close(found.double(), exact, rtol=EPSILON * 1.01, atol=1e-5)


def test_it_is_of_bfloat16_alone() -> None:
    assert linear_relu(torch.float32) is None


NEEDS_IT = pytest.mark.skipif(FUSED is None, reason="this processor, or this torch, has no such operation")


def _same_bits_packed(weight: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
    found = layer(weight)
    assert torch.equal(layer(packed(weight)), found)
    return found


@NEEDS_IT
@pytest.mark.parametrize(("rows", "width", "out"), [(0, 5, 4), (1, 1, 1), (3, 165, 7), (250, 33, 130), (700, 64, 16)])
def test_it_rounds_once(rows: int, width: int, out: int) -> None:
    assert FUSED is not None
    x_BI, weight_NI, bias_N = _random(rows, width), _random(out, width, seed=1), _random(out, seed=2)
    exact = torch.relu(x_BI.double() @ weight_NI.double().t() + bias_N.double())
    _rounded_once(_same_bits_packed(weight_NI, lambda w: FUSED.plain(x_BI, w, bias_N)), exact)


@NEEDS_IT
@pytest.mark.parametrize("requests", [1, 3])
@pytest.mark.parametrize("width", [0, 9])
def test_what_a_request_adds_is_added_to_its_samples(requests: int, width: int) -> None:
    assert FUSED is not None
    x_BI, weight_NI, h_RN = _random(12, width), _random(6, width, seed=1), _random(requests, 6, seed=2)
    of_B = torch.arange(12) * requests // 12
    exact = torch.relu(x_BI.double() @ weight_NI.double().t() + h_RN.double()[of_B])
    _rounded_once(_same_bits_packed(weight_NI, lambda w: FUSED.grouped(x_BI, w, h_RN.clone(), of_B)), exact)


@NEEDS_IT
@pytest.mark.parametrize(
    ("rows", "experts", "width", "out"), [(0, 2, 3, 4), (1, 1, 1, 1), (1, 4, 32, 16), (7, 3, 33, 5), (300, 10, 64, 48)]
)
def test_layers_of_all_experts_round_once(rows: int, experts: int, width: int, out: int) -> None:
    assert FUSED is not None
    h_BEI = _random(rows, experts, width)
    weight_EHI, bias_EH = _random(experts, out, width, seed=1), _random(experts, out, seed=2)
    exact = torch.relu(torch.einsum("bei,ehi->beh", h_BEI.double(), weight_EHI.double()) + bias_EH.double())
    _rounded_once(_same_bits_packed(weight_EHI, lambda w: FUSED.stacked(h_BEI.flatten(1), w, bias_EH)), exact)


@pytest.mark.parametrize("gradients", [False, True])
def test_experts_are_the_same_without_it(gradients: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    xs, firsts = [_random(40, 8), _random(40, 5, seed=1)], [_random(12, 8, seed=2), _random(6, 5, seed=3)]
    tensors = [*xs, *firsts, _random(12, seed=4), _random(6, seed=5), _random(6, 4, 3, seed=6), _random(6, 4, seed=7)]
    found = []
    for operation in (FUSED, None):
        monkeypatch.setattr(fused_linear, "_BFLOAT16", operation)
        own = [tensor.clone().requires_grad_(gradients) for tensor in tensors]
        with torch.set_grad_enabled(gradients):
            out_BEH = relu_bank(own[:2], own[2:4], own[4:6], own[6:7], own[7:], experts=6)
            if gradients:
                out_BEH.sum().backward()
        found.append([out_BEH.detach(), *(tensor.grad for tensor in own if tensor.grad is not None)])
    assert len(found[0]) == (9 if gradients else 1)
    for one, other in zip(*found, strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=0, atol=16 * EPSILON * scale)
