"""Cross-stitch, subspaces and levels: starts, formulas, names, refusals."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ple_rec.modules.mixing import MIXINGS, ChannelStitch, LevelMixing, SubspaceMixing
from ple_rec.modules.routing import Routing

STITCH = Routing(("a.0", "b.0"), (0, 0), ("a", "b"), ((True, True),) * 2, (0, 0), (6,), mixing="stitch")
SUBSPACES = replace(STITCH, mixing="subspaces", subspaces=3)
CHANNELS = replace(STITCH, mixing="stitch_channels")


def _experts(batch: int = 5) -> Tensor:
    return torch.randn(batch, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-14)


def test_a_stitch_is_a_sum_of_scaled_experts() -> None:
    stitch = SubspaceMixing(STITCH, [9, 9]).double()
    torch.testing.assert_close(stitch.weight, torch.tensor([[0.9, 0.1], [0.1, 0.9]]).double())
    with torch.no_grad():
        stitch.weight.copy_(torch.tensor([[0.5, -2.0], [3.0, 0.25]]))
    h_BEH = _experts()
    (a, b), a_BOE = stitch(h_BEH, [])
    _close(a, 0.5 * h_BEH[:, 0] - 2 * h_BEH[:, 1])
    _close(b, 3 * h_BEH[:, 0] + 0.25 * h_BEH[:, 1])
    assert a_BOE.tolist() == [[[0.5, -2.0], [3.0, 0.25]]] * 5
    assert (stitch.gate_labels.mixing, stitch.gate_labels.outputs, stitch.gate_labels.experts) == (
        "stitch",
        ("a", "b"),
        ("a.0", "b.0"),
    )
    assert stitch.flops_per_sample() == 2 * 4 * 6


def test_subspaces_are_consecutive_parts_of_every_expert() -> None:
    mixing = SubspaceMixing(SUBSPACES, [9, 9]).double()
    expected = torch.full((6, 6), 0.1 / 5, dtype=torch.float64).fill_diagonal_(0.9)
    torch.testing.assert_close(mixing.weight, expected, rtol=1e-6, atol=0)
    assert mixing.gate_labels.outputs == ("a[0]", "a[1]", "a[2]", "b[0]", "b[1]", "b[2]")
    assert mixing.gate_labels.experts == ("a.0[0]", "a.0[1]", "a.0[2]", "b.0[0]", "b.0[1]", "b.0[2]")
    assert mixing.gate_labels.edges_OE == ((True,) * 6,) * 6
    with torch.no_grad():  # of b only its last part, made of a's first and b's middle
        mixing.weight.zero_()[5, [0, 4]] = torch.tensor([2.0, -1.0]).double()
    h_BEH = _experts()
    (a, b), a_BOE = mixing(h_BEH, [])
    assert not a.any()
    assert not b[:, :4].any()
    _close(b[:, 4:], 2 * h_BEH[:, 0, :2] - h_BEH[:, 1, 2:4])
    assert torch.equal(a_BOE, mixing.weight.expand(5, 6, 6))
    assert mixing.widths == [6, 6]
    assert mixing.flops_per_sample() == 2 * 36 * 2


def test_a_stitch_by_channel_has_a_factor_for_each() -> None:
    stitch = ChannelStitch(CHANNELS, [9, 9]).double()
    start = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).double().unsqueeze(2).expand(2, 2, 6)
    torch.testing.assert_close(stitch.weight, start)
    with torch.no_grad():
        stitch.weight.copy_(torch.arange(24.0).view(2, 2, 6) - 7)
    h_BEH = _experts()
    (a, b), a_BOE = stitch(h_BEH, [])
    (aa, ab), (ba, bb) = stitch.weight
    _close(a, aa * h_BEH[:, 0] + ab * h_BEH[:, 1])
    _close(b, ba * h_BEH[:, 0] + bb * h_BEH[:, 1])
    assert a_BOE.tolist() == [[[-4.5, 1.5], [7.5, 13.5]]] * 5
    assert stitch.flops_per_sample() == 0  # no matrix product


def test_levels_are_mixed_by_a_softmax_per_output() -> None:
    mixing = LevelMixing(("a", "b"), 3).double()
    levels = [[_experts()[:, o] * (i + 1) for o in range(2)] for i in range(3)]
    (a, b), b_BOL = mixing(levels)
    _close(a, 2 * levels[0][0])
    _close(b, 2 * levels[0][1])
    assert torch.equal(b_BOL, torch.full((5, 2, 3), 1 / 3, dtype=torch.float64))
    with torch.no_grad():
        mixing.logits.copy_(torch.tensor([[0.0, 1.0, -1.0], [-torch.inf, 0.0, -torch.inf]]))
    (a, b), b_BOL = mixing(levels)
    e = torch.tensor([1, torch.e, 1 / torch.e]).double() / (1 + torch.e + 1 / torch.e)
    torch.testing.assert_close(b_BOL[3, 0], e, rtol=1e-6, atol=0)
    _close(a, (b_BOL[0, 0] * torch.tensor([1.0, 2, 3])).sum() * levels[0][0])
    assert torch.equal(b, levels[1][1])
    legend = mixing.gate_labels
    assert (legend.level, legend.mixing, legend.outputs) == (None, "levels", ("a", "b"))
    assert (legend.experts, legend.edges_OE) == (("level 1", "level 2", "level 3"), ((True,) * 3,) * 2)
    assert mixing.flops_per_sample(6) == 2 * 6 * 6


@pytest.mark.parametrize("routing", [STITCH, SUBSPACES, CHANNELS], ids=lambda routing: routing.mixing)
def test_outputs_have_the_precision_of_the_experts_and_a_that_of_the_weights(routing: Routing) -> None:
    mixing = MIXINGS[routing.mixing](routing, [9, 9])
    (a, b), a_BOE = mixing(_experts().bfloat16(), [])
    assert a.dtype == b.dtype == torch.bfloat16
    assert a_BOE.dtype == torch.float32
    (exact, _), _ = mixing(_experts().float(), [])
    torch.testing.assert_close(a.float(), exact, rtol=0.02, atol=0.03)
    (mixed,), b_BOL = LevelMixing(("a",), 2)([[a], [b]])
    assert (mixed.dtype, b_BOL.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("routing", [STITCH, SUBSPACES, CHANNELS], ids=lambda routing: routing.mixing)
def test_who_does_not_read_all_is_refused(routing: Routing) -> None:
    needs = f"mixing '{routing.mixing}' needs one output per expert, each reading all; got outputs "
    for change, got in (
        ({"edges_OE": ((True, True), (False, True))}, "('a', 'b') over experts ('a.0', 'b.0')"),
        (
            {"outputs": ("a",), "edges_OE": ((True, True),), "selector_O": (0,)},
            "('a',) over experts ('a.0', 'b.0')",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(needs + got)}$"):
            MIXINGS[routing.mixing](replace(routing, **change), [9, 9])


def test_subspaces_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^4 subspaces do not divide a width of 6$"):
        SubspaceMixing(replace(SUBSPACES, subspaces=4), [9, 9])
