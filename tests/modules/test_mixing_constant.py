"""Sum, mean and concatenation: what they make of experts that are read by some."""

from __future__ import annotations

import pytest
import torch

from ple_rec.modules.mixing import MIXINGS, ConcatMixing, MeanMixing, SumMixing
from ple_rec.modules.routing import Routing

READS = ((True, True, False), (False, False, True), (True, True, True))
ROUTING = Routing(("a.0", "b.0", "c.0"), (0, 0, 0), ("a", "b", "c"), READS, (0, 0, 0), (7, 4), mixing="sum")
H_BEH = torch.randn(5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
A, B, C = H_BEH.unbind(1)


def test_sum_adds_what_is_read() -> None:
    mixing = SumMixing(ROUTING, [9, 9]).double()
    (a, b, c), a_BOE = mixing(H_BEH, [])
    torch.testing.assert_close(a, A + B, rtol=1e-14, atol=1e-15)
    assert torch.equal(b, C)
    torch.testing.assert_close(c, A + B + C, rtol=1e-14, atol=1e-15)
    assert torch.equal(a_BOE, torch.tensor(READS).double().expand(5, 3, 3))
    assert mixing.widths == [4, 4, 4]


def test_mean_is_as_exact_as_what_it_averages() -> None:
    mixing = MeanMixing(ROUTING, [9, 9]).double()
    (a, b, c), a_BOE = mixing(H_BEH, [])
    torch.testing.assert_close(a, (A + B) / 2, rtol=1e-14, atol=1e-15)
    assert torch.equal(b, C)
    torch.testing.assert_close(c, (A + B + C) / 3, rtol=1e-14, atol=1e-15)
    assert a_BOE[4].tolist() == [[1 / 2, 1 / 2, 0], [0, 0, 1], [1 / 3] * 3]
    assert mixing.widths == [4, 4, 4]


def test_concat_stands_the_experts_side_by_side_in_their_order() -> None:
    mixing = ConcatMixing(ROUTING, [9, 9]).double()
    (a, b, c), a_BOE = mixing(H_BEH, [])
    assert torch.equal(a, torch.cat([A, B], dim=1))
    assert torch.equal(b, C)
    assert torch.equal(c, torch.cat([A, B, C], dim=1))
    assert torch.equal(a_BOE, torch.tensor(READS).double().expand(5, 3, 3))
    assert mixing.widths == [8, 4, 12]


@pytest.mark.parametrize(("kind", "flops"), [("sum", 2 * 3 * 3 * 4), ("mean", 2 * 3 * 3 * 4), ("concat", 0)])
def test_nothing_of_them_is_trained_or_saved(kind: str, flops: int) -> None:
    mixing = MIXINGS[kind](ROUTING, [9, 9])
    assert list(mixing.parameters()) == []
    assert mixing.state_dict() == {}
    assert mixing.flops_per_sample() == flops
    assert (mixing.gate_labels.outputs, mixing.gate_labels.experts) == (("a", "b", "c"), ("a.0", "b.0", "c.0"))
    assert mixing.gate_labels.edges_OE == READS


@pytest.mark.parametrize("kind", ["sum", "mean", "concat"])
def test_outputs_have_the_precision_of_the_experts_and_a_that_of_the_weights(kind: str) -> None:
    outputs, a_BOE = MIXINGS[kind](ROUTING, [9, 9])(H_BEH.bfloat16(), [])
    assert {y.dtype for y in outputs} == {torch.bfloat16}
    assert a_BOE.dtype == torch.float32
    exact, _ = MIXINGS[kind](ROUTING, [9, 9])(H_BEH.float(), [])
    for y, expected in zip(outputs, exact, strict=True):
        torch.testing.assert_close(y.float(), expected, rtol=0.02, atol=0.03)
