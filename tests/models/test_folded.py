"""Graphs taken apart: the same results, and nothing of weights alone in what runs at every call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ple_rec.models.folded import fold
from ple_rec.modules.script import scripted


def _doubled(x_BN: Tensor, weight_NN: Tensor) -> Tensor:
    return 2 * x_BN @ weight_NN


DOUBLED = scripted(_doubled)


def _flat(x_BI: Tensor, w_NI: Tensor, v_NI: Tensor, bias_N: Tensor, square_NN: Tensor) -> tuple[Tensor, ...]:
    joined = torch.cat([w_NI, v_NI]).t().double().float()
    left, right = joined.split([w_NI.shape[0], v_NI.shape[0]], dim=1)
    own_BN = (x_BI @ left).add_(bias_N)  # in place, of what is no weight
    both = torch.stack([own_BN, x_BI @ right])
    listed = torch.stack([bias_N, x_BI[0, :3]])  # a list of both
    return DOUBLED(both[0], square_NN.relu()), both.sum() * v_NI.shape[0] + listed.sum(), x_BI


def _kinds(graph: Any) -> set[str]:
    return {node.kind() for node in graph.graph.nodes()} - {"prim::Constant"}


def test_both_parts_are_the_graph() -> None:
    torch.manual_seed(0)
    weights = (torch.randn(3, 5), torch.randn(3, 5), torch.randn(3), torch.randn(3, 3))
    folded = fold(_flat, [torch.randn(2, 5)], weights)
    others = [torch.randn_like(weight) for weight in weights]
    for own in (weights, others):
        prepared = folded.prepare(*own)
        for rows in (1, 2, 7):
            x_BI = torch.randn(rows, 5)
            for _ in range(3):  # torch prepares a graph in its first calls
                found, expected = folded.rest(x_BI, *prepared), _flat(x_BI, *own)
                assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert {"aten::cat", "aten::t", "aten::to", "aten::relu"} <= _kinds(folded.prepare)
    assert not {"aten::cat", "aten::t", "aten::to", "aten::relu", "aten::split"} & _kinds(folded.rest)
    assert not {"aten::matmul", "aten::add_", "prim::CallFunction"} & _kinds(folded.prepare)
    assert [tuple(x.shape) for x, alone in zip(prepared, folded.multiplied, strict=True) if alone] == [(3, 3)]


def test_what_is_written_in_place_is_made_in_every_call() -> None:
    def flat(x_N: Tensor, weight_N: Tensor) -> tuple[Tensor, ...]:
        return weight_N.neg().add_(x_N), x_N

    weight_N = torch.arange(3.0)
    folded = fold(flat, [torch.ones(3)], [weight_N])
    prepared = folded.prepare(weight_N)
    assert [folded.rest(torch.ones(3), *prepared)[0].tolist() for _ in range(3)] == [[1.0, 0.0, -1.0]] * 3
