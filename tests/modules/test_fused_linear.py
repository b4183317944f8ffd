"""Layers of experts as one operation: the three steps, rounded once; without it, the steps."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ple_rec.models.stages import stages
from ple_rec.modules import fused_linear
from ple_rec.modules.fused_linear import linear_relu, packed
from ple_rec.modules.relu_bank import relu_bank

BF16, FP32 = torch.bfloat16, torch.float32
EPSILON = {BF16: 2**-8, FP32: 2**-20}  # relative: half a unit in the last place; of fp32 the sums' own error too


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = BF16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _rounded_once(found: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    """`exact` in doubles; for bfloat16 sums in fp32 are exact to far less than a bit."""
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, rtol=EPSILON[dtype] * 1.01, atol=1e-5)


def test_in_fp32_it_is_of_traces_alone() -> None:
    assert linear_relu(FP32) is None
    found = []

    def traced(*tensors: Tensor) -> tuple[Tensor, ...]:
        found.append(linear_relu(FP32))
        return tensors

    stages(traced, [torch.zeros(1)])
    assert found == [fused_linear._OPERATIONS.get(FP32)]
    assert linear_relu(torch.float64) is None


def _same_packed(weight: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
    found = layer(weight)
    # oneDNN may sum in another order for a packed weight, and bfloat16 may then round to the other neighbour.
    rtol, atol = (2 * EPSILON[BF16], 1e-5) if weight.dtype == BF16 else (1e-5, 1e-6)
    torch.testing.assert_close(layer(packed(weight)), found, rtol=rtol, atol=atol)
    return found


@pytest.fixture(params=[BF16, FP32], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    if request.param not in fused_linear._OPERATIONS:
        pytest.skip("this processor, or this torch, has no such operation")
    found: torch.dtype = request.param
    return found


@pytest.mark.parametrize(("rows", "width", "out"), [(0, 5, 4), (1, 1, 1), (3, 165, 7), (250, 33, 130), (700, 64, 16)])
def test_it_rounds_once(rows: int, width: int, out: int, dtype: torch.dtype) -> None:
    plain = fused_linear._OPERATIONS[dtype].plain
    x_BI, weight_NI = _random(rows, width, dtype=dtype), _random(out, width, seed=1, dtype=dtype)
    bias_N = _random(out, seed=2, dtype=dtype)
    exact = torch.relu(x_BI.double() @ weight_NI.double().t() + bias_N.double())
    _rounded_once(_same_packed(weight_NI, lambda w: plain(x_BI, w, bias_N)), exact, dtype)


@pytest.mark.parametrize("requests", [1, 3])
@pytest.mark.parametrize("width", [0, 9])
def test_what_a_request_adds_is_added_to_its_samples(requests: int, width: int, dtype: torch.dtype) -> None:
    grouped = fused_linear._OPERATIONS[dtype].grouped
    x_BI, weight_NI = _random(12, width, dtype=dtype), _random(6, width, seed=1, dtype=dtype)
    h_RN, of_B = _random(requests, 6, seed=2, dtype=dtype), torch.arange(12) * requests // 12
    exact = torch.relu(x_BI.double() @ weight_NI.double().t() + h_RN.double()[of_B])
    _rounded_once(_same_packed(weight_NI, lambda w: grouped(x_BI, w, h_RN.clone(), of_B)), exact, dtype)


@pytest.mark.parametrize(
    ("rows", "experts", "width", "out"), [(0, 2, 3, 4), (1, 1, 1, 1), (1, 4, 32, 16), (7, 3, 33, 5), (300, 10, 64, 48)]
)
def test_layers_of_all_experts_round_once(rows: int, experts: int, width: int, out: int, dtype: torch.dtype) -> None:
    stacked = fused_linear._OPERATIONS[dtype].stacked
    h_BEI, weight_EHI = _random(rows, experts, width, dtype=dtype), _random(experts, out, width, seed=1, dtype=dtype)
    bias_EH = _random(experts, out, seed=2, dtype=dtype)
    exact = torch.relu(torch.einsum("bei,ehi->beh", h_BEI.double(), weight_EHI.double()) + bias_EH.double())
    _rounded_once(_same_packed(weight_EHI, lambda w: stacked(h_BEI.flatten(1), w, bias_EH)), exact, dtype)


@pytest.mark.parametrize("gradients", [False, True])
def test_experts_are_the_same_without_it(gradients: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    xs, firsts = [_random(40, 8), _random(40, 5, seed=1)], [_random(12, 8, seed=2), _random(6, 5, seed=3)]
    tensors = [*xs, *firsts, _random(12, seed=4), _random(6, seed=5), _random(6, 4, 3, seed=6), _random(6, 4, seed=7)]
    found = []
    for operations in (fused_linear._OPERATIONS, {}):
        monkeypatch.setattr(fused_linear, "_OPERATIONS", operations)
        own = [tensor.clone().requires_grad_(gradients) for tensor in tensors]
        with torch.set_grad_enabled(gradients):
            out_BEH = relu_bank(own[:2], own[2:4], own[4:6], own[6:7], own[7:], experts=6)
            if gradients:
                out_BEH.sum().backward()
        found.append([out_BEH.detach(), *(tensor.grad for tensor in own if tensor.grad is not None)])
    assert len(found[0]) == (9 if gradients else 1)
    for one, other in zip(*found, strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=0, atol=16 * EPSILON[BF16] * scale)


def test_it_is_not_there_where_a_part_of_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(weight: Tensor) -> Tensor:
        raise RuntimeError("could not create a primitive descriptor")

    threads = torch.get_num_threads()
    monkeypatch.setattr(fused_linear, "packed", fails)
    assert fused_linear._operations() == {}
    assert torch.get_num_threads() == threads


def test_its_import_starts_no_thread() -> None:
    """After which a process should not fork."""
    code = (
        "import os, torch; count = lambda: len(os.listdir('/proc/self/task')); before = count(); "
        "import ple_rec.modules.fused_linear as it; print(before == count())"
    )
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    assert done.stdout == "True\n"
