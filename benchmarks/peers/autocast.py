"""Set the precision of all contenders except ours."""

from __future__ import annotations

import torch
from torch import nn


def use_precision(model: nn.Module, precision: str) -> None:
    """Run the forward of a model under `torch.autocast` if the precision is bf16.

    The output becomes fp32 again, so that the loss is computed in fp32. Weights, gradients and optimizer states stay in
    fp32.

    Args:
        model: Model whose `forward` is replaced.
        precision: `Workload.precision`; under `auto` the model stays in fp32, PyTorch's default.
    """
    if precision == "bf16":
        forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)
        model.forward = lambda *args: forward(*args).float()
