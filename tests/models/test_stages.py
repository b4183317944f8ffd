"""Functions in stages: the same results, and each step where it runs least often."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import torch
from torch import Tensor

from ple_rec.models.stages import Stage, stages
from ple_rec.modules.script import scripted


def _doubled(x_BN: Tensor, weight_NN: Tensor) -> Tensor:
    return 2 * x_BN @ weight_NN


DOUBLED = scripted(_doubled)


def _scored(*tensors: Tensor) -> tuple[Tensor, ...]:
    w_NI, v_NI, bias_N, square_NN, u_RI, x_BI = tensors
    joined = torch.cat([w_NI, v_NI]).t().double().float()
    left, right = joined.split([w_NI.shape[0], v_NI.shape[0]], dim=1)
    own_BN = (x_BI @ left).add_(bias_N)  # in place, of what is no weight
    both = torch.stack([own_BN, x_BI @ right])
    listed = torch.stack([bias_N, x_BI[0, :3]])  # a list of both
    shared_RN = (u_RI @ left).tanh()
    found_BN = DOUBLED(both[0] + shared_RN[0], square_NN.relu())
    return found_BN, both.sum() * v_NI.shape[0] + listed.sum() + joined.sum(), x_BI


def _weights(seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(3, 5), torch.randn(3, 5), torch.randn(3), torch.randn(3, 3)]


def _three(multiply: Collection[str] = (DOUBLED.qualified_name,)) -> list[Stage]:
    return stages(_scored, _weights(0), [torch.randn(2, 5)], [torch.randn(2, 5)], multiply=multiply)


def _kinds(stage: Stage) -> set[str]:
    graph: Any = stage.graph
    return {node.kind() for node in graph.graph.nodes()}


def test_all_stages_are_the_function() -> None:
    once, request, block = _three()
    for weights in (_weights(0), _weights(1)):
        values = once(weights, [])
        for requests, rows in ((1, 1), (4, 7)):
            u_RI, x_BI = torch.randn(requests, 5), torch.randn(rows, 5)
            for _ in range(3):  # torch prepares a graph in its first calls
                products = request([u_RI], values)
                found = block([x_BI], [*values, *products])
                expected = _scored(*weights, u_RI, x_BI)
                assert len(found) == len(expected) == block.makes
                assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert [tuple(x.shape) for x, alone in zip(values, once.multiplied, strict=True) if alone] == [(3, 3)]


def test_weights_of_other_functions_are_not_for_packing() -> None:
    assert not any(_three(multiply=["__torch__.another"])[0].multiplied)


def test_each_step_is_where_it_runs_least_often() -> None:
    once, request, block = _three()
    of_weights = {"aten::cat", "aten::t", "aten::to", "aten::split_with_sizes", "aten::relu"}
    assert of_weights <= _kinds(once)
    assert not of_weights & (_kinds(request) | _kinds(block))
    assert not {"aten::matmul", "aten::add_", "prim::CallFunction"} & _kinds(once)
    assert "aten::tanh" in _kinds(request)
    assert not {"aten::tanh"} & (_kinds(once) | _kinds(block))
    assert not {"aten::add_", "prim::CallFunction"} & _kinds(request)


def test_what_it_was_given_is_given_back() -> None:
    once, request, block = _three()
    values, u_RI, x_BI = once(_weights(0), []), torch.randn(1, 5), torch.randn(4, 5)
    read = [values[place] for place in request.reads]
    *products, own = request.graph(u_RI, *read)
    assert own is u_RI
    values += products
    read = [values[place] for place in block.reads]
    back = block.graph(x_BI, *read)[block.makes :]
    assert [*map(id, back)] == [*map(id, [x_BI, *(values[place] for place in block.reads if place >= once.makes)])]


def _through_a_view(weight_N: Tensor, x_N: Tensor) -> tuple[Tensor, ...]:
    doubled_N = weight_N * 2
    doubled_N.view(-1).add_(x_N)
    return doubled_N, doubled_N.sum(0)


def _by_a_part(weight_N: Tensor, x_N: Tensor) -> tuple[Tensor, ...]:
    doubled_N = weight_N * 2
    doubled_N[0] += x_N[0]
    return (doubled_N.sum(0),)


def _as_out(weight_N: Tensor, x_N: Tensor) -> tuple[Tensor, ...]:
    buffer_N = weight_N.new_empty(5)
    torch.mul(weight_N, 2, out=buffer_N[:3])
    return (buffer_N[:3] + x_N,)


def _at_once(weight_N: Tensor, x_N: Tensor) -> tuple[Tensor, ...]:
    return (weight_N.neg().add_(x_N),)


@pytest.mark.parametrize("function", [_through_a_view, _by_a_part, _as_out, _at_once])
def test_what_is_written_in_place_is_made_where_that_is(function: Any) -> None:
    weight_N = torch.arange(3.0)
    once, each = stages(function, [weight_N], [torch.ones(3)])
    values = once([weight_N], [])
    for _ in range(4):
        found, expected = each([torch.ones(3)], values), function(weight_N, torch.ones(3))
        assert [tensor.tolist() for tensor in found] == [tensor.tolist() for tensor in expected]


def test_what_is_drawn_is_drawn_in_every_call() -> None:
    once, each = stages(lambda w_N, x_N: (torch.rand_like(w_N) + x_N,), [torch.ones(8)], [torch.ones(8)])
    values = once([torch.ones(8)], [])
    assert not torch.equal(each([torch.ones(8)], values)[0], each([torch.ones(8)], values)[0])


def test_weights_are_not_written() -> None:
    with pytest.raises(ValueError, match="writes to an argument that is not of the last group"):
        stages(lambda w_N, x_N: (w_N.view(-1).add_(1) + x_N,), [torch.ones(8)], [torch.ones(8)])
