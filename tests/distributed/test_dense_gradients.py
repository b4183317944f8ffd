"""Dense layers are equal on all ranks, and their gradients are averaged by one all-reduce of one tensor."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import nn

from ple_rec.distributed.gradients import GradientAverage, broadcast_parameters
from tests.training.small import on_ranks


def _parameters(rank: int) -> list[nn.Parameter]:
    torch.manual_seed(rank)
    return [nn.Parameter(torch.randn(shape)) for shape in ((3, 2), (), (4,))]


def _averaged(rank: int, world_size: int) -> dict[str, Any]:
    parameters = _parameters(rank)
    broadcast_parameters(parameters)
    average = GradientAverage(parameters)
    results = []
    for step in range(2):
        gradients = [torch.full_like(parameter, float(10 * step + rank + 1)) for parameter in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as all_reduce:
            average.compute()
        results.append([parameter.grad.clone() for parameter in parameters if parameter.grad is not None])
    memory = {p.grad.untyped_storage().data_ptr() for p in parameters if p.grad is not None}
    values = [parameter.detach() for parameter in parameters]
    return {"values": values, "gradients": results, "calls": all_reduce.call_count, "tensors": len(memory)}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_begin_with_equal_values_and_take_the_mean(world_size: int) -> None:
    for result in on_ranks(_averaged, world_size):
        assert all(torch.equal(value, first) for value, first in zip(result["values"], _parameters(0), strict=True))
        for step, gradients in enumerate(result["gradients"]):
            for gradient in gradients:
                torch.testing.assert_close(gradient, torch.full_like(gradient, 10 * step + (world_size + 1) / 2))
        # One rank neither copies nor sends anything.
        assert (result["calls"], result["tensors"]) == ((0, 3) if world_size == 1 else (1, 1))
