"""Data parallelism of the dense layers: equal parameters on all ranks, and gradients averaged by one all-reduce.

After the backward pass of a step, the gradients of all dense parameters are copied into one flat tensor, which is
all-reduced at once. `DistributedDataParallel` instead sends the gradients in parts (buckets) while the backward pass
still runs. That hides time of the network, but in every step it costs the host some time for each parameter, and on a
GPU the time of the host, not that of the network, limits a step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


def broadcast_parameters(parameters: Sequence[nn.Parameter]) -> None:
    """Overwrite the parameters of all ranks with those of rank 0 (a collective)."""
    flat = torch.cat([parameter.detach().flatten() for parameter in parameters])
    dist.broadcast(flat, src=0)
    torch._foreach_copy_([parameter.detach() for parameter in parameters], _views(flat, parameters))


class GradientAverage:
    """Mean over the ranks of the gradients of the dense parameters.

    Args:
        parameters: Dense parameters, in the same order on all ranks.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._world_size = dist.get_world_size()
        # The gradients of a single rank are the mean already, so it needs no flat tensor.
        if self._world_size > 1:
            self._flat = torch.cat([torch.zeros_like(parameter).flatten() for parameter in parameters])
            self._views = _views(self._flat, parameters)

    def compute(self) -> None:
        """Replace the gradient of each parameter by the mean over the ranks (a collective)."""
        if self._world_size == 1:
            return
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        # The backward pass gives every parameter a gradient. If one were missing, the lists would differ in length, and
        # torch would raise an error.
        torch._foreach_copy_(self._views, gradients)
        # Each rank divides before the sum, as TorchRec does for tables, so that large gradients do not overflow.
        self._flat.mul_(1 / self._world_size)
        dist.all_reduce(self._flat)
        for parameter, view in zip(self._parameters, self._views, strict=True):
            parameter.grad = view


def _views(flat: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Return the parts of a flat tensor in the shapes of the parameters."""
    parts = flat.split([parameter.numel() for parameter in parameters])
    return [part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]
