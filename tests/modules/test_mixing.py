"""Softmax gates: which experts they read, where there is none, in which precision."""

from __future__ import annotations

import pytest
import torch

from ple_rec.modules.extraction import ExtractionNetwork
from ple_rec.modules.mixing import SoftmaxGates
from ple_rec.modules.routing import Routing

BATCH, WIDTH, HIDDEN = 6, 5, 3
# Output b reads one expert; the others are gated, and c selects by an earlier stream than a.
ROUTING = Routing(
    experts=("a.0", "a.1", "b.0", "c.0"),
    source_E=(0, 0, 1, 1),
    outputs=("a", "b", "c"),
    edges_OE=((True, True, False, True), (False, False, True, False), (False, True, True, False)),
    selector_O=(1, 0, 0),
    hidden=(HIDDEN,),
)


def _inputs(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    h_BEH = torch.randn(BATCH, 4, HIDDEN, generator=generator, dtype=dtype)
    return h_BEH, [torch.randn(BATCH, WIDTH, generator=generator, dtype=dtype) for _ in range(2)]


def test_outputs_are_mixtures_of_what_they_read() -> None:
    gates = SoftmaxGates(ROUTING, [WIDTH, WIDTH]).double()
    h_BEH, streams = _inputs()
    (a, b, c), a_BOE = gates(h_BEH, streams)
    by_stream_0, by_stream_1 = gates.weights  # of c, of a
    assert (len(by_stream_0), len(by_stream_1)) == (2, 3)
    of_a = torch.softmax(streams[1] @ by_stream_1.T, dim=1)
    of_c = torch.softmax(streams[0] @ by_stream_0.T, dim=1)
    torch.testing.assert_close(a, (of_a.unsqueeze(2) * h_BEH[:, [0, 1, 3]]).sum(1))
    assert torch.equal(b, h_BEH[:, 2])
    torch.testing.assert_close(c, (of_c.unsqueeze(2) * h_BEH[:, [1, 2]]).sum(1))
    torch.testing.assert_close(a_BOE[:, 0, [0, 1, 3]], of_a)
    torch.testing.assert_close(a_BOE[:, 2, [1, 2]], of_c)


def test_weights_sum_to_one_and_are_exactly_zero_where_not_read() -> None:
    gates = SoftmaxGates(ROUTING, [WIDTH, WIDTH]).double()
    a_BOE = gates(*_inputs())[1]
    torch.testing.assert_close(a_BOE.sum(2), torch.ones(BATCH, 3, dtype=torch.float64))
    assert torch.equal(a_BOE != 0, torch.tensor(ROUTING.edges_OE).expand(BATCH, 3, 4))
    assert torch.equal(a_BOE[:, 1], torch.tensor([0.0, 0, 1, 0], dtype=torch.float64).expand(BATCH, 4))


def test_a_gate_over_one_expert_is_dropped() -> None:
    routing = Routing(("a.0", "b.0"), (0, 0), ("a", "b"), ((True, False), (False, True)), (0, 0), (HIDDEN,))
    gates = SoftmaxGates(routing, [WIDTH])
    assert list(gates.parameters()) == []
    assert gates.flops_per_sample() == 0
    h_BEH = torch.randn(BATCH, 2, HIDDEN)
    (a, b), a_BOE = gates(h_BEH, [torch.randn(BATCH, WIDTH)])
    assert torch.equal(torch.stack([a, b], 1), h_BEH)
    assert torch.equal(a_BOE, torch.eye(2).expand(BATCH, 2, 2))


def test_unread_experts_get_no_gradient_even_where_they_are_not_finite() -> None:
    gates = SoftmaxGates(ROUTING, [WIDTH, WIDTH]).double()
    h_BEH, streams = _inputs()
    h_BEH.requires_grad_()
    (a, _, _), _ = gates(h_BEH, streams)
    (gradient_BEH,) = torch.autograd.grad(a.sum(), h_BEH)
    assert not gradient_BEH[:, 2].any()
    assert gradient_BEH[:, [0, 1, 3]].all()


@pytest.mark.parametrize("routing", [ROUTING, Routing(("a.0", "a.1"), (0, 0), ("a",), ((True, True),), (0,), (3,))])
def test_softmax_is_fp32_under_bf16_autocast(routing: Routing) -> None:
    gates = SoftmaxGates(routing, [WIDTH, WIDTH])
    h_BEH, streams = _inputs(torch.float32)
    h_BEH = h_BEH[:, : len(routing.experts)].bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs, a_BOE = gates(h_BEH, streams)
    assert a_BOE.dtype == torch.float32
    assert {y.dtype for y in outputs} == {torch.bfloat16}
    # In bf16, with 8 bits of mantissa, the weights would sum to 1 within 4e-3 only.
    torch.testing.assert_close(a_BOE.sum(2), torch.ones(a_BOE.shape[:2]), rtol=0, atol=3e-7)
    assert not torch.equal(a_BOE, a_BOE.bfloat16().float())


def test_a_network_without_gates_runs_under_autocast() -> None:
    routing = Routing(("a.0", "b.0"), (0, 0), ("a", "b"), ((True, False), (False, True)), (0, 0), (4, HIDDEN))
    network = ExtractionNetwork([routing], WIDTH, "relu", 0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs, (a_BOE,) = network(torch.randn(BATCH, WIDTH))
    assert [y.dtype for y in outputs] == [torch.bfloat16] * 2
    assert torch.equal(a_BOE, torch.eye(2).expand(BATCH, 2, 2))
