"""Experts with ReLU on a CPU: values and gradients of the plain experts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ple_rec.models.cpu import relu_bank
from ple_rec.models.cpu.relu_bank import CpuExpertBank
from ple_rec.modules.experts import ExpertBank
from ple_rec.modules.routing import Routing

WIDTHS = [6, 9, 2, 4]


def _bank(hidden: tuple[int, ...], activation: str = "relu", dropout: float = 0.0) -> CpuExpertBank:
    experts = tuple(f"e.{i}" for i in range(6))
    routing = Routing(experts, (0, 0, 2, 3, 3, 3), ("a", "b"), ((True,) * 6,) * 2, (0, 1), hidden)
    return CpuExpertBank(routing, WIDTHS, activation, dropout).double()


@pytest.mark.parametrize("hidden", [(5,), (5, 4), (5, 4, 3)])
def test_values_and_gradients_are_those_of_the_plain_experts(hidden: tuple[int, ...]) -> None:
    bank = _bank(hidden)
    streams = [torch.randn(7, width, dtype=torch.float64).requires_grad_() for width in WIDTHS]
    read = [streams[0], *streams[2:]]  # no expert reads the second
    weights_BEH = torch.randn(7, 6, hidden[-1], dtype=torch.float64)
    found = []
    for way in (CpuExpertBank, ExpertBank):
        h_BEH = way.forward(bank, streams)
        found.append([h_BEH, *torch.autograd.grad((h_BEH * weights_BEH).sum(), [*read, *bank.parameters()])])
    for value, expected in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
    assert torch.autograd.gradcheck(lambda *xs: bank([xs[0], streams[1], *xs[1:]]), read)


@pytest.mark.parametrize(
    ("activation", "dropout", "fast"), [("relu", 0.0, True), ("relu", 0.5, False), ("tanh", 0, False)]
)
def test_what_it_cannot_do_the_plain_experts_do(
    activation: str, dropout: float, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, streams = _bank((5,), activation, dropout), [torch.randn(7, width, dtype=torch.float64) for width in WIDTHS]
    taken, first_layer = list[int](), relu_bank._first_layer

    def counted(*layer: Any) -> Any:
        taken.append(1)
        return first_layer(*layer)

    monkeypatch.setattr(relu_bank, "_first_layer", counted)
    bank(streams)
    assert bool(taken) is fast
    exported = torch.export.export(bank.eval(), (streams,))
    assert len(taken) == fast  # an export holds common operations alone
    torch.testing.assert_close(exported.module()(streams), bank(streams))
