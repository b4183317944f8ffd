"""Attention over a history: the last events before a sample, weighted by how much they concern the sample's target.

The activation unit is that of the Deep Interest Network (Zhou et al., KDD 2018, section 4.3, DIN). An event i has the
embeddings q_i of its items, such as a video and its author, and the embedding a_i of its age. The target t has the
embeddings of the same features of the sample.

    h_i = PReLU(W_q q_i + W_a a_i + W_p (q_i * t) + W_t t + b)      more hidden layers of this kind may follow
    w_i = v . h_i + c
    y   = sum_i w_i [q_i, a_i]

As in the paper, there is no softmax over the events, so y grows with the number of events that concern t. For a given
t, the first layer is linear in the event, so all events of a sample are multiplied once, by [W_q + W_p diag(t), W_a].

Histories are padded by events whose q_i and a_i are 0. They change nothing: whatever w_i is, w_i [q_i, a_i] adds 0 to
y, and the gradient of y with respect to w_i is [q_i, a_i] = 0.

Shape suffixes: B batch, R requests, L events of a history, Q width of q and t, W width of [q, a], H hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ple_rec.modules.grouped import repeat_by_request

# Initial slope of PReLU below 0, that of He et al., ICCV 2015.
_SLOPE = 0.25


class HistoryAttention(nn.Module):
    """Sum of the events of a history, weighted by the activation unit of DIN.

    The weight of the first layer is [W_q, W_a, W_p, W_t].

    Args:
        item_width: Width Q of the embeddings of an event's items.
        age_width: Width of the embedding of an event's age.
        hidden: Sizes of the hidden layers, at least one.
    """

    def __init__(self, item_width: int, age_width: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.item_width, self.age_width = item_width, age_width
        self.sizes = [item_width + age_width + 2 * item_width, *hidden, 1]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(self.sizes))
        self.slopes = nn.ParameterList(torch.full((1,), _SLOPE) for _ in hidden)

    def forward(
        self, events_RLW: Tensor, target_BQ: Tensor, request_B: Tensor | None = None, first_R: Tensor | None = None
    ) -> Tensor:
        """Return y_BW.

        Args:
            events_RLW: Events [q, a] of each request, padded by zeros; of each sample if there are no requests.
            target_BQ: Target t of each sample.
            request_B: Request of each sample, ascending; None if each sample has a history of its own.
            first_R: First sample of each request; None if `request_B` is None.
        """
        first, *deeper = (layer for layer in self.layers if isinstance(layer, nn.Linear))
        events_BLW, target_BQ = events_RLW.to(first.weight.dtype), target_BQ.to(first.weight.dtype)
        if request_B is not None and first_R is not None:
            repeated = repeat_by_request(events_BLW.flatten(1), request_B, first_R)
            events_BLW = repeated.unflatten(1, events_BLW.shape[1:])
        event_HW, product_HQ, target_HQ = first.weight.split(
            [self.item_width + self.age_width, self.item_width, self.item_width], dim=1
        )
        weight_BHW = event_HW + F.pad(product_HQ * target_BQ[:, None], (0, self.age_width))
        bias_B1H = F.linear(target_BQ, target_HQ, first.bias)[:, None]
        h_BLH = torch.baddbmm(bias_B1H, events_BLW, weight_BHW.transpose(1, 2))
        for layer, slope in zip(deeper, self.slopes, strict=True):
            h_BLH = layer(F.prelu(h_BLH, slope.to(h_BLH.dtype)))
        # The last layer has one output, w.
        return torch.bmm(h_BLH.transpose(1, 2), events_BLW).squeeze(1)

    def of_one_history(self, events_LW: Tensor, target_BQ: Tensor) -> Tensor:
        """Return y_BW of samples that all have one history, as the items of a ranking have.

        It is `forward` with other products: those of the events alone are computed once, and those of all samples are
        one large product instead of B small ones, which takes a third of the time on a CPU. The order of sums differs.

        Args:
            events_LW: Events [q, a] of the history.
            target_BQ: Target t of each sample.
        """
        first, *deeper = (layer for layer in self.layers if isinstance(layer, nn.Linear))
        events_LW, target_BQ = events_LW.to(first.weight.dtype), target_BQ.to(first.weight.dtype)
        event_HW, product_HQ, target_HQ = first.weight.split(
            [self.item_width + self.age_width, self.item_width, self.item_width], dim=1
        )
        products = F.linear(events_LW[:, : self.item_width], (product_HQ * target_BQ[:, None]).flatten(0, 1))
        h_LBH = products.view(len(events_LW), len(target_BQ), len(product_HQ)) + F.linear(events_LW, event_HW)[:, None]
        h_LBH = h_LBH + F.linear(target_BQ, target_HQ, first.bias)
        for layer, slope in zip(deeper, self.slopes, strict=True):
            h_LBH = layer(F.prelu(h_LBH, slope.to(h_LBH.dtype)))
        return h_LBH.squeeze(2).T @ events_LW

    def flops_per_sample(self, length: int) -> int:
        """Return the forward FLOPs of the matrix products for one sample, two per multiply-add.

        Args:
            length: Number of events, with padding.
        """
        width, (_, hidden, *_) = self.item_width + self.age_width, self.sizes
        of_event = width * hidden + sum(a * b for a, b in pairwise(self.sizes[1:])) + width
        return 2 * (length * of_event + self.item_width * hidden)
