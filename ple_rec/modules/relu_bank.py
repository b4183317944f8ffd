"""ReLU experts on a CPU as one step of autograd: layers written side by side, activations in place.

    h_l = relu(W_l h_(l-1) + b_l)          l = 1 .. L, experts side by side in the columns of h_l
    g_l = dL/dh_l * [h_l > 0]              dL/dW_l = g_l^T h_(l-1),   dL/dh_(l-1) = g_l W_l

Of the general way, which joins and splits tensors between its products, this leaves out every copy and every second
buffer: the matrix products are nearly all that remains.

Shape suffixes: B batch, R requests, E experts, I width in, H width out, N outputs of several experts side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ple_rec.modules.fused_linear import added, linear_relu
from ple_rec.modules.grouped import sum_requests

_threshold = torch.ops.aten.threshold_backward


def relu_bank(
    streams: Sequence[Tensor],
    first_weights: Sequence[Tensor],
    first_biases: Sequence[Tensor],
    deep_weights: Sequence[Tensor],
    deep_biases: Sequence[Tensor],
    *,
    experts: int,
    requests: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Outputs of all experts.

    Args:
        streams: x_BI of each stream that has readers.
        first_weights: W_NI of each of them, the first layers of its experts; without gradients, one W_SNI of streams
            that stand side by side as one.
        first_biases: b_N likewise, or b_SN.
        deep_weights: W_EHI of each further layer.
        deep_biases: b_EH likewise.
        experts: E.
        requests: of_B and first_R of `Grouped`. Then there is one stream, given as its parts shared_RU and own_BI with
            W_NU and W_NI.

    Returns:
        h_BEH of the last layer; without gradients its memory may be in another order.
    """
    if not torch.is_grad_enabled():
        h_BN = _first_layer(streams, first_weights, first_biases, None if requests is None else requests[0])
        if linear_relu(h_BN.dtype):
            for weight_EHI, bias_EH in zip(deep_weights, deep_biases, strict=True):
                h_BN = _deeper(h_BN, weight_EHI, bias_EH)
            h_BEH: Tensor = h_BN.unflatten(1, (experts, -1))
            return h_BEH
        h_EBH: Tensor = h_BN.unflatten(1, (experts, -1)).transpose(0, 1)
        for weight_EHI, bias_EH in zip(deep_weights, deep_biases, strict=True):
            h_EBH = torch.baddbmm(bias_EH.unsqueeze(1), h_EBH, weight_EHI.transpose(1, 2)).relu_()
        return h_EBH.transpose(0, 1)
    tensors = (*streams, *first_weights, *first_biases, *deep_weights, *deep_biases)
    counts = (len(streams), len(first_biases), len(deep_weights))
    out_BEH: Tensor = _ReluBank.apply(counts, requests, *tensors).unflatten(1, (experts, -1))  # type: ignore[no-untyped-call]
    return out_BEH


class _ReluBank(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, counts: tuple[int, int, int], requests: tuple[Tensor, Tensor] | None, *tensors: Tensor
    ) -> Tensor:
        xs, first_weights, first_biases, deep_weights, deep_biases = _parts(tensors, *counts)
        layers = [_first_layer(xs, first_weights, first_biases, None if requests is None else requests[0])]
        for weight_EHI, bias_EH in zip(deep_weights, deep_biases, strict=True):
            layers.append(_deeper(layers[-1], weight_EHI, bias_EH))
        ctx.counts, ctx.requests = counts, requests
        ctx.save_for_backward(*xs, *first_weights, *deep_weights, *layers)
        return layers[-1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        streams, _, deep = ctx.counts
        saved = ctx.saved_tensors
        xs, first_weights = saved[:streams], saved[streams : 2 * streams]
        deep_weights, layers = saved[2 * streams : 2 * streams + deep], saved[2 * streams + deep :]
        grad_BN = _threshold(grads[0], layers[-1], 0)
        weight_grads: list[Tensor] = []
        bias_grads: list[Tensor] = []
        for weight_EHI, below_BN in zip(reversed(deep_weights), reversed(layers[:-1]), strict=True):
            _, high, wide = weight_EHI.shape
            weight_grads.insert(0, torch.empty_like(weight_EHI))
            bias_grads.insert(0, grad_BN.sum(0).view(-1, high))
            down_BN = torch.empty_like(below_BN)
            for e, weight_HI in enumerate(weight_EHI):
                own_BH, below_BI = grad_BN[:, e * high : (e + 1) * high], below_BN[:, e * wide : (e + 1) * wide]
                torch.mm(own_BH.t(), below_BI, out=weight_grads[0][e])
                down_BI = down_BN[:, e * wide : (e + 1) * wide]
                torch.mm(own_BH, weight_HI, out=down_BI)
                _threshold.grad_input(down_BI, below_BI, 0, grad_input=down_BI)
            grad_BN = down_BN
        if ctx.requests is None:
            owns = grad_BN.split([len(weight_NI) for weight_NI in first_weights], dim=1)
            first_bias_grads = [own_BN.sum(0) for own_BN in owns]
        else:
            owns = (sum_requests(grad_BN, ctx.requests[1]), grad_BN)
            first_bias_grads = [owns[0].sum(0)]
        first_grads, x_grads = [], []
        for i, (own_BN, x_BI, weight_NI) in enumerate(zip(owns, xs, first_weights, strict=True)):
            first_grads.append(torch.mm(own_BN.t(), x_BI))
            x_grads.append(torch.mm(own_BN, weight_NI) if ctx.needs_input_grad[2 + i] else None)
        return None, None, *x_grads, *first_grads, *first_bias_grads, *weight_grads, *bias_grads


def _first_layer(
    xs: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor], of_B: Tensor | None
) -> Tensor:
    if of_B is None:
        return _side_by_side(xs, weights, biases)
    return _grouped(xs, weights, biases[0], of_B)


def _side_by_side(xs: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """The first layers, a stream after the other."""
    if weights[0].ndim == 3:
        return _deeper(xs[0], weights[0], biases[0])
    if fused := linear_relu(xs[0].dtype):
        pieces = [
            fused.plain(x_BI, weight_NI, bias_N) for x_BI, weight_NI, bias_N in zip(xs, weights, biases, strict=True)
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
    # The bias is added after the product: addmm would write it to the result first, and read it there again.
    bias_N = biases[0] if len(biases) == 1 else torch.cat(list(biases))
    h_BN = xs[0].new_empty(xs[0].shape[0], bias_N.numel())
    begin = 0
    for x_BI, weight_NI in zip(xs, weights, strict=True):
        torch.mm(x_BI, weight_NI.t(), out=h_BN[:, begin : begin + weight_NI.shape[0]])
        begin += weight_NI.shape[0]
    return h_BN.add_(bias_N).relu_()


def _grouped(xs: Sequence[Tensor], weights: Sequence[Tensor], bias_N: Tensor, of_B: Tensor) -> Tensor:
    """The first layers where samples stand in requests: the other product is added to that of the requests."""
    h_RN = torch.mm(xs[0], weights[0].t()) + bias_N  # not in place: a graph may keep it for other samples
    fused = linear_relu(h_RN.dtype)
    return (fused.grouped if fused else added)(xs[1], weights[1], h_RN, of_B)


def _deeper(h_BN: Tensor, weight_EHI: Tensor, bias_EH: Tensor) -> Tensor:
    """A layer of all experts, or streams, each of which reads its own part of the columns."""
    if fused := linear_relu(h_BN.dtype):
        return fused.stacked(h_BN, weight_EHI, bias_EH).flatten(1)
    _, high, wide = weight_EHI.shape
    out_BN = h_BN.new_empty(len(h_BN), bias_EH.numel())
    for e, weight_HI in enumerate(weight_EHI):
        torch.mm(h_BN[:, e * wide : (e + 1) * wide], weight_HI.t(), out=out_BN[:, e * high : (e + 1) * high])
    return out_BN.add_(bias_EH.flatten()).relu_()


def _parts(tensors: Sequence[Tensor], streams: int, biases: int, deep: int) -> list[Sequence[Tensor]]:
    ends = list(accumulate((streams, streams, biases, deep, deep)))
    return [tensors[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
