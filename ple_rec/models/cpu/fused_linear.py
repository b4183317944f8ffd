"""`relu(x W^T + b)` in bfloat16 on a CPU as one operation of oneDNN, which rounds once and reads the product once.

The operators (`torch.ops.mkldnn`) are private; torch's compiler calls them too. `is_fused` tells if this version of
torch and this processor have them; without them, `CpuExpertBank` computes product, bias and ReLU one by one.
`stacked_linear_relu` computes the layers of all experts as one 1 x 1 convolution whose groups are the experts. It reads
and writes the experts side by side, while a batched product would need copies.

Shape suffixes: B batch, E experts, I width in, H width out, N values of several experts side by side.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def linear_relu(x_BI: Tensor, weight_NI: Tensor, bias_N: Tensor) -> Tensor:
    """Return relu(x W^T + b)."""
    out_BN: Tensor = torch.ops.mkldnn._linear_pointwise(x_BI, weight_NI, bias_N, "relu", [], "")
    return out_BN


def stacked_linear_relu(h_BN: Tensor, weight_EHI: Tensor, bias_EH: Tensor) -> Tensor:
    """Return relu(W_e h_e + b_e) of all experts side by side, (B, E H), from their inputs h_e, (B, E I)."""
    (experts, width), (rows, channels) = bias_EH.shape, h_BN.shape
    if rows == 0:
        return h_BN.new_empty(0, experts * width)
    image = h_BN.view(1, rows, 1, channels).permute(0, 3, 1, 2)
    kernels = weight_EHI.reshape(experts * width, -1, 1, 1)
    out = torch.ops.mkldnn._convolution_pointwise(
        image, kernels, bias_EH.flatten(), [0, 0], [1, 1], [1, 1], experts, "relu", [], ""
    )
    out_BN: Tensor = out.permute(0, 2, 3, 1).reshape(rows, experts * width)
    return out_BN


def is_fused(dtype: torch.dtype) -> bool:
    """Return True if both operations are to be used for this type: if it is bfloat16, and they work on this machine."""
    return dtype == torch.bfloat16 and _works_in_bfloat16()


@cache
def _works_in_bfloat16() -> bool:
    try:
        if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        with torch.no_grad():
            h_BN = linear_relu(*(torch.zeros(size, dtype=torch.bfloat16) for size in ((1, 2), (4, 2), (4,))))
            stacked_linear_relu(h_BN, h_BN.view(2, 1, 2), h_BN[:, :2].view(2, 1))
    except (AttributeError, RuntimeError):
        return False
    return True
