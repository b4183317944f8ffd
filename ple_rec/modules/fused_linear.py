"""`relu(x W^T + b)` in bfloat16 on a CPU as one operation, which rounds once and reads the product no second time.

It is oneDNN's, through the operator that torch's compiler calls for it. Torch says nothing of it to the outside, so
where a torch or a processor lacks it, the steps are computed one by one.

Both functions are TorchScript: a trace holds neither the operator's list of numbers nor a choice by shapes.

Shape suffixes: B batch, R requests, I width in, N width out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class LinearRelu(NamedTuple):
    """The operation.

    Args:
        plain: x_BI, W_NI and b_N -> relu(x W^T + b).
        grouped: x_BI, W_NI, h_RN and of_B -> relu(x W^T + h_of(b)).
    """

    plain: Callable[[Tensor, Tensor, Tensor], Tensor]
    grouped: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def added(x_BI: Tensor, weight_NI: Tensor, h_RN: Tensor, of_B: Tensor) -> Tensor:
    """relu(x W^T + h_of(b)), step by step, for any type."""
    return h_RN.index_select(0, of_B).addmm_(x_BI, weight_NI.t()).relu_()


def _plain(x_BI: Tensor, weight_NI: Tensor, bias_N: Tensor) -> Tensor:
    out_BN: Tensor = torch.ops.mkldnn._linear_pointwise(x_BI, weight_NI, bias_N, "relu", [], "")
    return out_BN


def _grouped(x_BI: Tensor, weight_NI: Tensor, h_RN: Tensor, of_B: Tensor) -> Tensor:
    if h_RN.shape[0] == 1 and weight_NI.shape[1] > 0:  # what a request adds is a bias
        return _plain(x_BI, weight_NI, h_RN[0])
    return added(x_BI, weight_NI, h_RN, of_B)


def _of_bfloat16() -> LinearRelu | None:
    mkldnn = torch.ops.mkldnn
    try:
        if not (torch.backends.mkldnn.is_available() and mkldnn._is_mkldnn_bf16_supported()):
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return LinearRelu(torch.jit.script(_plain), torch.jit.script(_grouped))
    except (AttributeError, RuntimeError):
        return None


_BFLOAT16 = _of_bfloat16()  # made here: a trace cannot hold the question


def linear_relu(dtype: torch.dtype) -> LinearRelu | None:
    """The operation on tensors of a type; None where it is not faster, or not there."""
    return _BFLOAT16 if dtype == torch.bfloat16 else None
