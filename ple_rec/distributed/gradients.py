"""Data parallelism of the dense layers: equal parameters on all ranks, and gradients averaged by one all-reduce.

After the backward pass of a step, the gradients of all dense parameters are copied into one flat tensor, which is
all-reduced at once. A bucket of `DistributedDataParallel` would be sent while the backward pass still runs, but each
parameter would cost the host some time in every step, and the host, not the network, limits a step on a GPU.
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
        # A single rank needs no tensor, since its gradients are the mean.
        if self._world_size > 1:
            self._flat = torch.cat([torch.zeros_like(parameter).flatten() for parameter in parameters])
            self._views = _views(self._flat, parameters)

    def compute(self) -> None:
        """Replace the gradient of each parameter by the mean over the ranks (a collective)."""
        if self._world_size == 1:
            return
        torch._foreach_copy_(self._views, [parameter.grad for parameter in self._parameters])
        # Each rank divides before the sum, as TorchRec does for tables, so that large gradients do not overflow.
        self._flat.mul_(1 / self._world_size)
        dist.all_reduce(self._flat)
        for parameter, view in zip(self._parameters, self._views, strict=True):
            parameter.grad = view


def _views(flat: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Return the parts of a flat tensor in the shapes of the parameters."""
    parts = flat.split([parameter.numel() for parameter in parameters])
    return [part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]
