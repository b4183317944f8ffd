"""Expert bank with ReLU for a CPU, as one autograd function: experts lie side by side, and ReLU is applied in place.

    h_l = relu(W_l h_(l-1) + b_l)          l = 1 .. L, experts side by side in the columns of h_l
    g_l = dL/dh_l * [h_l > 0]              dL/dW_l = g_l^T h_(l-1),   dL/dh_(l-1) = g_l W_l

The plain `ExpertBank` joins and splits tensors between its products. `CpuExpertBank` avoids these copies and half of
the buffers, so that the matrix products take most of the time.

Shape suffixes: B batch, R requests, E experts, I width in, H width out, N outputs of several experts side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_exporting

from ple_rec.models.cpu.fused_linear import is_fused, linear_relu, stacked_linear_relu
from ple_rec.modules.experts import ExpertBank
from ple_rec.modules.grouped import GroupedInputs, Inputs, input_tensors, sum_requests

# Gradient of ReLU by its output h: the gradient of h where h > 0, else 0.
_threshold = torch.ops.aten.threshold_backward


class CpuExpertBank(ExpertBank):
    """Expert bank with a fast path for ReLU on a CPU without dropout. Exports use the plain path."""

    def forward(self, streams: Sequence[Inputs]) -> Tensor:
        """Return h_BEH, with the experts in the routing's order, from the streams s, (B, width_s) each."""
        read_streams = [x_BI for x_BI, count in zip(streams, self.counts, strict=True) if count]
        has_dropout = self.dropout > 0 and self.training
        if read_streams[0].device.type != "cpu" or self.activation is not torch.relu or has_dropout or is_exporting():
            return super().forward(streams)
        first_weights, requests = list(self.first_weights), None
        if isinstance(x := read_streams[0], GroupedInputs):
            # Only the first level reads grouped inputs, and x is its only stream.
            first_weights, requests = list(x.columns.split(first_weights[0])), (x.request_B, x.first_R)
        xs = [part for x in read_streams for part in input_tensors(x)]
        tensors = [*xs, *first_weights, *self.first_biases, *self.deep_weights, *self.deep_biases]
        if torch.is_autocast_enabled("cpu"):
            tensors = [tensor.to(torch.get_autocast_dtype("cpu")) for tensor in tensors]
        counts = (len(xs), len(self.first_biases), len(self.deep_weights))
        h_BN: Tensor = _ReluBank.apply(counts, requests, *tensors)  # type: ignore[no-untyped-call]
        return h_BN.view(len(h_BN), sum(self.counts), self.hidden[-1])


class _ReluBank(torch.autograd.Function):
    """Forward and backward pass of the bank by the equations above.

    `counts` are the numbers of inputs, of first biases and of deeper layers among the tensors; `requests` are the
    `request_B` and `first_R` of a grouped input, or None.
    """

    @staticmethod
    def forward(
        ctx: Any, counts: tuple[int, int, int], requests: tuple[Tensor, Tensor] | None, *tensors: Tensor
    ) -> Tensor:
        xs, first_weights, first_biases, deep_weights, deep_biases = _split_tensors(tensors, *counts)
        layers = [_first_layer(xs, first_weights, first_biases, None if requests is None else requests[0])]
        for weight_EHI, bias_EH in zip(deep_weights, deep_biases, strict=True):
            layers.append(_deep_layer(layers[-1], weight_EHI, bias_EH))
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
            _, out_width, in_width = weight_EHI.shape
            weight_grads.insert(0, torch.empty_like(weight_EHI))
            bias_grads.insert(0, grad_BN.sum(0).view(-1, out_width))
            lower_grad_BN = torch.empty_like(below_BN)
            for e, weight_HI in enumerate(weight_EHI):
                out_columns = slice(e * out_width, (e + 1) * out_width)
                in_columns = slice(e * in_width, (e + 1) * in_width)
                expert_grad_BH, below_BI = grad_BN[:, out_columns], below_BN[:, in_columns]
                torch.mm(expert_grad_BH.t(), below_BI, out=weight_grads[0][e])
                lower_grad_BI = lower_grad_BN[:, in_columns]
                torch.mm(expert_grad_BH, weight_HI, out=lower_grad_BI)
                _threshold.grad_input(lower_grad_BI, below_BI, 0, grad_input=lower_grad_BI)
            grad_BN = lower_grad_BN
        if ctx.requests is None:
            stream_grads = grad_BN.split([len(weight_NI) for weight_NI in first_weights], dim=1)
            first_bias_grads = [stream_grad_BN.sum(0) for stream_grad_BN in stream_grads]
        else:
            stream_grads = (sum_requests(grad_BN, ctx.requests[1]), grad_BN)
            first_bias_grads = [stream_grads[0].sum(0)]
        first_grads, x_grads = [], []
        for i, (stream_grad_BN, x_BI, weight_NI) in enumerate(zip(stream_grads, xs, first_weights, strict=True)):
            first_grads.append(torch.mm(stream_grad_BN.t(), x_BI))
            x_grads.append(torch.mm(stream_grad_BN, weight_NI) if ctx.needs_input_grad[2 + i] else None)
        return None, None, *x_grads, *first_grads, *first_bias_grads, *weight_grads, *bias_grads


def _first_layer(
    xs: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor], request_B: Tensor | None
) -> Tensor:
    """Return h_1 of all experts side by side."""
    if request_B is not None:
        # The product of each sample is added to that of its request.
        h_RN = torch.mm(xs[0], weights[0].t()).add_(biases[0])
        return h_RN.index_select(0, request_B).addmm_(xs[1], weights[1].t()).relu_()
    if is_fused(xs[0].dtype):
        pieces = [linear_relu(*layer) for layer in zip(xs, weights, biases, strict=True)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
    return _side_by_side(xs, weights, torch.cat(list(biases)))


def _deep_layer(h_BN: Tensor, weight_EHI: Tensor, bias_EH: Tensor) -> Tensor:
    """Return the next layer of all experts, each of which reads the columns of its own outputs in the layer below."""
    if is_fused(h_BN.dtype):
        return stacked_linear_relu(h_BN, weight_EHI, bias_EH)
    return _side_by_side(h_BN.split(weight_EHI.shape[2], dim=1), weight_EHI.unbind(0), bias_EH.flatten())


def _side_by_side(xs: Sequence[Tensor], weights: Sequence[Tensor], bias_N: Tensor) -> Tensor:
    """Return relu(x W^T + b) for each pair of an input and a weight, side by side in one buffer."""
    # The bias is added after the product, because `addmm` would first write it to the result and then read it again.
    h_BN = xs[0].new_empty(len(xs[0]), len(bias_N))
    for x_BI, weight_HI, out_BH in zip(xs, weights, h_BN.split([len(w) for w in weights], dim=1), strict=True):
        torch.mm(x_BI, weight_HI.t(), out=out_BH)
    return h_BN.add_(bias_N).relu_()


def _split_tensors(tensors: Sequence[Tensor], streams: int, biases: int, deep: int) -> list[Sequence[Tensor]]:
    """Divide the tensors into inputs, first weights, first biases, deeper weights and deeper biases."""
    ends = list(accumulate((streams, streams, biases, deep, deep)))
    return [tensors[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
