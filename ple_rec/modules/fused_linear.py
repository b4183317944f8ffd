"""`relu(x W^T + b)` on a CPU as one operation, which rounds once and reads the product no second time.

It is oneDNN's, through the operators that torch's compiler calls for it. Torch says nothing of them to the outside, so
where a torch or a processor lacks them, the steps are computed one by one. The layers of all experts are a convolution
of 1 x 1 whose groups are the experts: it reads and writes them side by side, where a batched product needs copies.

In bfloat16 that is always faster, in fp32 where its weights are packed: so in a trace, whose weights stay as they are.

All functions are TorchScript: a trace holds neither the operators' lists of numbers nor a choice by shapes.

Shape suffixes: B batch, R requests, E experts, I width in, H width out, N outputs of several experts side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ple_rec.modules.script import scripted

_TILE = 32  # columns of bfloat16 that matrix units take at a time
_ROWS = 256  # for which weights are packed; any number may come


class LinearRelu(NamedTuple):
    """The operation. Weights may be those of `packed`.

    Args:
        plain: x_BI, W_NI and b_N -> relu(x W^T + b).
        grouped: x_BI, W_NI, h_RN and of_B -> relu(x W^T + h_of(b)).
        stacked: h_BN of all experts, W_EHI and b_EH -> h_BEH, relu(W_e h_be + b_e).
    """

    plain: Callable[[Tensor, Tensor, Tensor], Tensor]
    grouped: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    stacked: Callable[[Tensor, Tensor, Tensor], Tensor]


def added(x_BI: Tensor, weight_NI: Tensor, h_RN: Tensor, of_B: Tensor) -> Tensor:
    """relu(x W^T + h_of(b)), step by step, for any type."""
    return h_RN.index_select(0, of_B).addmm_(x_BI, weight_NI.t()).relu_()


def packed(weight: Tensor) -> Tensor:
    """A weight of `LinearRelu` in the order in which a product reads it; itself where it has no values.

    Args:
        weight: W_NI, which in bfloat16 gets columns of zeros up to whole tiles, or W_EHI.
    """
    if weight.numel() == 0:
        return weight
    mkldnn = torch.ops.mkldnn
    out: Tensor
    if weight.ndim == 2:
        wider = -weight.shape[1] % _TILE if weight.dtype == torch.bfloat16 else 0
        out = mkldnn._reorder_linear_weight(F.pad(weight, (0, wider)), _ROWS)
    else:
        experts, _, width = weight.shape
        image = [1, experts * width, _ROWS, 1]
        out = mkldnn._reorder_convolution_weight(_kernels(weight), [0, 0], [1, 1], [1, 1], experts, image)
    return out


def _kernels(weight_EHI: Tensor) -> Tensor:
    return weight_EHI.reshape(-1, weight_EHI.shape[2], 1, 1)


def _as_wide(x_BI: Tensor, weight_NI: Tensor) -> Tensor:
    wider = weight_NI.shape[1] - x_BI.shape[1]
    return F.pad(x_BI, [0, wider]) if wider > 0 else x_BI


def _plain(x_BI: Tensor, weight_NI: Tensor, bias_N: Tensor) -> Tensor:
    x_BI = _as_wide(x_BI, weight_NI)
    out_BN: Tensor = torch.ops.mkldnn._linear_pointwise(x_BI, weight_NI, bias_N, "relu", [], "")
    return out_BN


def _grouped(x_BI: Tensor, weight_NI: Tensor, h_RN: Tensor, of_B: Tensor) -> Tensor:
    if weight_NI.shape[1] == 0:
        return added(x_BI, weight_NI, h_RN, of_B)
    if h_RN.shape[0] == 1:  # what a request adds is a bias
        return _plain(x_BI, weight_NI, h_RN[0])
    h_BN, x_BI = h_RN.index_select(0, of_B), _as_wide(x_BI, weight_NI)
    out_BN: Tensor = torch.ops.mkldnn._linear_pointwise(x_BI, h_BN, weight_NI, None, "add")
    return out_BN.relu_()


def _stacked(h_BN: Tensor, weight_EHI: Tensor, bias_EH: Tensor) -> Tensor:
    experts, width = bias_EH.shape
    kernels = weight_EHI if weight_EHI.is_mkldnn else _kernels(weight_EHI)
    rows, channels = h_BN.shape
    if rows == 0:
        return h_BN.new_empty(0, experts, width)
    image = h_BN.view(1, rows, 1, channels).permute(0, 3, 1, 2)
    out = torch.ops.mkldnn._convolution_pointwise(
        image, kernels, bias_EH.flatten(), [0, 0], [1, 1], [1, 1], experts, "relu", [], ""
    )
    out_BEH: Tensor = out.permute(0, 2, 3, 1).reshape(rows, experts, width)
    return out_BEH


def _operations() -> dict[torch.dtype, LinearRelu]:
    try:
        if not torch.backends.mkldnn.is_available():
            return {}
        operation = LinearRelu(scripted(_plain), scripted(_grouped), scripted(_stacked))
        types = [torch.float32, *([torch.bfloat16] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else [])]
        for dtype in types:
            _try(operation, dtype)
        return dict.fromkeys(types, operation)
    except (AttributeError, RuntimeError):
        return {}


def _try(operation: LinearRelu, dtype: torch.dtype) -> None:
    """Whether all of it is there, and works."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would be started here, at an import, after which a process should not fork
    try:
        h_BN = operation.plain(*(torch.zeros(size, dtype=dtype) for size in ((1, 2), (4, 2), (4,))))
        operation.plain(h_BN, packed(h_BN), h_BN[0, :1])
        operation.stacked(h_BN, packed(h_BN.view(2, 1, 2)), h_BN[:, :2].view(2, 1))
    finally:
        torch.set_num_threads(threads)


_OPERATIONS = _operations()  # made here: a trace cannot hold the question


def linear_relu(dtype: torch.dtype) -> LinearRelu | None:
    """The operation on tensors of a type; None where it is not faster, or not there."""
    return _OPERATIONS.get(dtype) if dtype == torch.bfloat16 or torch.jit.is_tracing() else None


def names() -> frozenset[str]:
    """Qualified names of the operation's functions, whose second argument may be `packed`."""
    functions: list[Any] = [function for operation in _OPERATIONS.values() for function in operation]
    return frozenset(function.qualified_name for function in functions)
