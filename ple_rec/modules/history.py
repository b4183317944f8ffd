"""Attention over a history: the last events before a sample, weighted by how much they concern the sample's target.

The activation unit is that of the Deep Interest Network (Zhou et al., KDD 2018, section 4.3, DIN). An event i has the
embeddings q_i of its items, such as a video and its author, and the embedding a_i of its age. The target t has the
embeddings of the same features of the sample.

    h_i = PReLU(W_q q_i + W_a a_i + W_p (q_i * t) + W_t t + b)      more hidden layers of this kind may follow
    w_i = v . h_i + c
    y   = sum_i w_i [q_i, a_i]

As in the paper, there is no softmax over the events, so that y grows with the number of events that concern t. The
matrices W are one weight matrix, [W_q, W_a, W_p, W_t].

Events are padded by zeros. The padding changes nothing: its terms of y are w_i 0 = 0, so w_i has no gradient, either.

Shape suffixes: B batch, R requests, L events of a history, Q width of q and t, E width of [q, a], H hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ple_rec.modules.grouped import repeat_by_request

# Initial slope of PReLU below 0, the one of He et al., ICCV 2015.
_SLOPE = 0.25


class HistoryAttention(nn.Module):
    """Sum of the events of a history, weighted by the activation unit of DIN.

    Args:
        item_width: Width Q of the embeddings of an event's items.
        age_width: Width of the embedding of an event's age.
        hidden: Sizes of the hidden layers, at least one.
    """

    def __init__(self, item_width: int, age_width: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.item_width, self.width = item_width, item_width + age_width
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([self.width + 2 * item_width, *hidden, 1]))
        self.slopes = nn.ParameterList(torch.full((1,), _SLOPE) for _ in hidden)

    def forward(
        self, events_RLE: Tensor, target_BQ: Tensor, request_B: Tensor | None = None, first_R: Tensor | None = None
    ) -> Tensor:
        """Return y_BE.

        The parts of the first layer that do not depend on the target are computed once for each request.

        Args:
            events_RLE: Events [q, a] of each request, padded by zeros; of each sample without `request_B`.
            target_BQ: Target t of each sample.
            request_B: Request of each sample, ascending; None if each sample has its own history.
            first_R: First sample of each request; None without `request_B`.
        """
        first, *deeper = self.layers
        event_HE, product_HQ, target_HQ = first.weight.split([self.width, self.item_width, self.item_width], dim=1)
        dtype = first.weight.dtype
        events_BLE, h_BLH = events_RLE.to(dtype), F.linear(events_RLE.to(dtype), event_HE)
        if request_B is not None and first_R is not None:
            events_BLE, h_BLH = (
                repeat_by_request(x.flatten(1), request_B, first_R).unflatten(1, x.shape[1:])
                for x in (events_BLE, h_BLH)
            )
        target_BQ = target_BQ.to(dtype)
        products_BLQ = events_BLE[:, :, : self.item_width] * target_BQ[:, None]
        h_BLH = h_BLH + F.linear(products_BLQ, product_HQ) + F.linear(target_BQ, target_HQ, first.bias)[:, None]
        for layer, slope in zip(deeper, self.slopes, strict=True):
            h_BLH = layer(F.prelu(h_BLH, slope.to(h_BLH.dtype)))
        # h_BLH is w now, with H = 1. This sum over L is in the order of events, unlike a matrix product.
        return (h_BLH * events_BLE).sum(1)

    def flops_per_sample(self, length: int) -> int:
        """Return the forward FLOPs of the matrix products for one sample with its own history of `length` events.

        A multiply-add is two FLOPs. The target is multiplied once for all events.
        """
        first, *deeper = (layer.weight.numel() for layer in self.layers)
        of_target = self.item_width * len(self.layers[0].bias)
        return 2 * (length * (first - of_target + sum(deeper)) + of_target)
