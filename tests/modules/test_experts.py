"""Initialisation and forward of stacked experts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ple_rec.modules.experts import ExpertBank
from ple_rec.modules.mixing import SoftmaxGates
from ple_rec.modules.routing import Routing


def _routing(source_E: tuple[int, ...], hidden: tuple[int, ...]) -> Routing:
    experts = tuple(f"e.{i}" for i in range(len(source_E)))
    return Routing(experts, source_E, ("a", "b"), ((True,) * len(experts),) * 2, (0, 1), hidden)


def test_every_layer_starts_uniform_by_its_own_fan_in() -> None:
    torch.manual_seed(0)
    bank = ExpertBank(_routing((0, 0, 0, 2, 2), (200, 90, 120)), [400, 7, 100], "relu", 0.0)
    fan_in = [
        (bank.first_weights[0], 400),
        (bank.first_weights[1], 100),
        (bank.first_biases[0], 400),
        (bank.first_biases[1], 100),
        (bank.deep_weights[0], 200),
        (bank.deep_biases[0], 200),
        (bank.deep_weights[1], 90),
        (bank.deep_biases[1], 90),
    ]
    assert [tuple(p.shape) for p, _ in fan_in[::2]] == [(600, 400), (600,), (5, 90, 200), (5, 120, 90)]
    assert sum(p.numel() for p, _ in fan_in) == sum(p.numel() for p in bank.parameters())
    for parameter, width in fan_in:
        bound, samples = 1 / math.sqrt(width), parameter.numel()
        assert parameter.abs().max() <= bound
        assert parameter.abs().max() > bound * (1 - 20 / samples)
        # Mean and standard deviation of U(-bound, bound), within five standard errors.
        assert abs(parameter.mean().item()) < 5 * bound / math.sqrt(3 * samples)
        assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=5 * math.sqrt(0.2 / samples))


def test_gates_start_uniform_by_the_width_of_their_selector() -> None:
    torch.manual_seed(0)
    gates = SoftmaxGates(_routing((0,) * 50, (8,)), [900, 25])
    for weight, width in zip(gates.weights, (900, 25), strict=True):
        assert weight.shape == (50, width)
        assert weight.abs().max() <= width**-0.5
        assert weight.std().item() == pytest.approx((3 * width) ** -0.5, rel=5 * math.sqrt(0.2 / weight.numel()))


@pytest.mark.parametrize("hidden", [(5,), (5, 4), (5, 4, 3)])
def test_each_expert_is_an_mlp_on_its_own_stream(hidden: tuple[int, ...]) -> None:
    source_E, widths = (0, 0, 2, 3, 3, 3), [6, 9, 2, 4]
    bank = ExpertBank(_routing(source_E, hidden), widths, "gelu", 0.0).double()
    streams = [torch.randn(7, width, dtype=torch.float64) for width in widths]
    h_BEH = bank(streams)
    assert h_BEH.shape == (7, 6, hidden[-1])
    first = [
        (w, b)
        for m, n in zip(bank.first_weights, bank.first_biases, strict=True)
        for w, b in zip(m.split(5), n.split(5), strict=True)
    ]
    for e, (stream, (weight, bias)) in enumerate(zip(source_E, first, strict=True)):
        h_BH = nn.functional.gelu(streams[stream] @ weight.T + bias)
        for stack, bias_stack in zip(bank.deep_weights, bank.deep_biases, strict=True):
            h_BH = nn.functional.gelu(h_BH @ stack[e].T + bias_stack[e])
        torch.testing.assert_close(h_BEH[:, e], h_BH, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("source_E", [(0, 0, 1, 1, 3, 3), (0, 1, 1, 3)], ids=["alike", "of two numbers"])
def test_in_bfloat16_each_is_what_it_is_with_gradients(source_E: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    bank = ExpertBank(_routing(source_E, (5, 4)), [6, 6, 9, 6], "relu", 0.0)
    streams = [torch.randn(7, width) for width in (6, 6, 9, 6)]
    with torch.autocast("cpu", torch.bfloat16):
        expected_BEH = bank(streams)
        with torch.no_grad():
            found_BEH = bank(streams)
    assert found_BEH.dtype == torch.bfloat16
    assert found_BEH.count_nonzero() > found_BEH.numel() // 4
    torch.testing.assert_close(found_BEH, expected_BEH.detach(), rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("subspaces", [1, 2, 3, 6])
@pytest.mark.parametrize(("source_E", "hidden"), [((0, 0, 0), (6,)), ((0, 2, 2), (6,)), ((0, 1, 2), (5, 4, 6))])
def test_orthogonality_is_the_overlap_of_an_experts_subspaces(
    source_E: tuple[int, ...], hidden: tuple[int, ...], subspaces: int
) -> None:
    torch.manual_seed(0)
    bank = ExpertBank(_routing(source_E, hidden), [7, 4, 3], "relu", 0.0).double()
    last = list(bank.deep_weights[-1]) if len(hidden) > 1 else [w for m in bank.first_weights for w in m.split(6)]
    assert len(last) == 3
    expected, part = torch.zeros(()).double(), 6 // subspaces
    for w in last:
        for a in range(subspaces):
            for b in range(a):
                product = w[a * part : (a + 1) * part] @ w[b * part : (b + 1) * part].T
                expected = expected + torch.linalg.matrix_norm(product, "fro") ** 2
    ours = bank.orthogonality(subspaces)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    if subspaces == 1:
        assert ours.item() == 0
        return
    trained = list(bank.deep_weights[-1:]) or list(bank.first_weights)
    for gradient, wanted in zip(
        torch.autograd.grad(ours, trained), torch.autograd.grad(expected, trained), strict=True
    ):
        torch.testing.assert_close(gradient, wanted, rtol=1e-11, atol=1e-14)


def test_large_weights_inside_orthogonal_subspaces_leave_no_rounding_behind() -> None:
    bank = ExpertBank(_routing((0,), (4,)), [4], "relu", 0.0)
    with torch.no_grad():
        bank.first_weights[0].copy_(1e3 * torch.block_diag(torch.rand(2, 2) + 1, torch.rand(2, 2) + 1))
    assert bank.orthogonality(2).item() == 0


@pytest.mark.gpu
def test_deep_layers_on_a_gpu_are_those_of_the_cpu() -> None:
    bank = ExpertBank(_routing((0, 0, 1), (8, 6, 4)), [5, 3], "tanh", 0.0).double()
    streams = [torch.randn(9, 5, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)]
    h_BEH = bank(streams)
    h_BEH.square().sum().backward()
    gradients = [p.grad for p in bank.parameters()]
    bank.zero_grad()
    bank.cuda()
    moved_BEH = bank([x.cuda() for x in streams])
    moved_BEH.square().sum().backward()
    torch.testing.assert_close(moved_BEH.cpu(), h_BEH, rtol=1e-10, atol=1e-12)
    for parameter, gradient in zip(bank.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad.cpu(), gradient, rtol=1e-10, atol=1e-12)
