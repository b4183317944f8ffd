"""The code path of a GPU, run on a CPU: without the computations that only a CPU has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from ple_rec.models.cpu.relu_bank import CpuExpertBank
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules import experts
from ple_rec.modules.experts import ExpertBank
from ple_rec.training import progress
from ple_rec.training.progress import rows_at_once


@contextmanager
def device_path() -> Iterator[None]:
    """Run the operators that a GPU would run, for the block of the context.

    On a CPU, the model is computed in blocks of rows, ReLU experts have an autograd function of their own, and stacked
    experts are multiplied one by one. Each step computes its metrics. On a GPU, none of this is so.
    """
    with (
        patch.object(MultiTaskModel, "_runs_in_blocks", lambda model, x_BD: False),
        patch.object(CpuExpertBank, "forward", ExpertBank.forward),
        patch.object(experts, "_stacked_linear", _batched_linear),
        patch.object(progress, "rows_at_once", lambda device: rows_at_once(torch.device("cuda"))),
    ):
        yield


def _batched_linear(x_BEI: Tensor, weight_EHI: Tensor, bias_EH: Tensor) -> Tensor:
    """Return the stacked linear layer as a GPU computes it, by one batched product."""
    product_EBH = torch.baddbmm(bias_EH.unsqueeze(1), x_BEI.transpose(0, 1), weight_EHI.transpose(1, 2))
    return product_EBH.transpose(0, 1)
