"""Layers of experts as one operation in bfloat16: their three steps, rounded once; without it, the steps."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from ple_rec.models.cpu import fused_linear, relu_bank
from ple_rec.models.cpu.fused_linear import is_fused, linear_relu, stacked_linear_relu
from ple_rec.models.cpu.relu_bank import CpuExpertBank
from ple_rec.modules.routing import Routing

BF16 = torch.bfloat16
EPSILON = 2**-8  # relative: half a unit in the last place

needs_bf16 = pytest.mark.skipif(not is_fused(BF16), reason="this processor, or this torch, has no such operation")


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(BF16)


def _rounded_once(found: Tensor, exact: Tensor) -> None:
    """Compare with sums in doubles: those in fp32 are exact to far less than a bit of bfloat16."""
    assert found.dtype == BF16
    torch.testing.assert_close(found.double(), exact, rtol=EPSILON * 1.01, atol=1e-5)


@needs_bf16
@pytest.mark.parametrize(("rows", "width", "out"), [(0, 5, 4), (1, 1, 1), (3, 165, 7), (250, 33, 130), (700, 64, 16)])
def test_it_rounds_once(rows: int, width: int, out: int) -> None:
    x_BI, weight_NI, bias_N = _random(rows, width), _random(out, width, seed=1), _random(out, seed=2)
    exact = torch.relu(x_BI.double() @ weight_NI.double().t() + bias_N.double())
    _rounded_once(linear_relu(x_BI, weight_NI, bias_N), exact)


@needs_bf16
@pytest.mark.parametrize(
    ("rows", "experts", "width", "out"), [(0, 2, 3, 4), (1, 1, 1, 1), (1, 4, 32, 16), (7, 3, 33, 5), (300, 10, 64, 48)]
)
def test_layers_of_all_experts_round_once(rows: int, experts: int, width: int, out: int) -> None:
    h_BEI, weight_EHI = _random(rows, experts, width), _random(experts, out, width, seed=1)
    bias_EH = _random(experts, out, seed=2)
    exact = torch.relu(torch.einsum("bei,ehi->beh", h_BEI.double(), weight_EHI.double()) + bias_EH.double())
    _rounded_once(stacked_linear_relu(h_BEI.flatten(1), weight_EHI, bias_EH), exact.flatten(1))


@pytest.mark.parametrize("gradients", [False, True])
def test_experts_are_the_same_without_it(gradients: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    routing = Routing(("a.0", "a.1", "b.0"), (0, 0, 1), ("a",), ((True,) * 3,), (0,), (6, 4))
    torch.manual_seed(0)
    bank = CpuExpertBank(routing, [8, 5], "relu", 0.0).to(BF16)
    streams = [_random(40, 8).requires_grad_(gradients), _random(40, 5, seed=1).requires_grad_(gradients)]
    found = []
    for fused in (is_fused, lambda dtype: False):
        monkeypatch.setattr(relu_bank, "is_fused", fused)
        bank.zero_grad()
        with torch.set_grad_enabled(gradients):
            h_BEH = bank(streams)
            grads = torch.autograd.grad(h_BEH.sum(), [*streams, *bank.parameters()]) if gradients else ()
        found.append([h_BEH.detach(), *grads])
    assert len(found[0]) == (9 if gradients else 1)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=16 * EPSILON * float(other.abs().max()))


def test_it_is_not_there_where_a_part_of_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*tensors: Tensor) -> Tensor:
        raise RuntimeError("could not create a primitive descriptor")

    threads = torch.get_num_threads()
    monkeypatch.setattr(fused_linear, "stacked_linear_relu", fails)
    assert not fused_linear._works_in_bfloat16.__wrapped__()
    assert torch.get_num_threads() == threads


def test_other_types_take_the_steps() -> None:
    assert not is_fused(torch.float32)
    assert not is_fused(torch.float64)


def test_its_import_starts_no_thread() -> None:
    """After which a process should not fork."""
    code = (
        "import os, torch; count = lambda: len(os.listdir('/proc/self/task')); before = count(); "
        "import ple_rec.models.cpu.fused_linear as it; print(before == count())"
    )
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    assert done.stdout == "True\n"
