"""Attention of the Deep Interest Network (Zhou et al., KDD 2018, section 4.3) written down literally."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ple_rec.modules.history import HistoryAttention


def literal_attention(unit: HistoryAttention, events: Sequence[Sequence[Tensor]], targets: Sequence[Tensor]) -> Tensor:
    """The output of each sample, an event and a hidden layer at a time, from the concatenation of all inputs.

    Args:
        unit: Unit whose weights are read.
        events: Events of each sample, each with the rows of its items and of its age.
        targets: Rows of the items' features of each sample.
    """
    outputs = []
    for sample_events, target in zip(events, targets, strict=True):
        y = target.new_zeros(unit.item_width + unit.age_width)
        for event in sample_events:
            items, age = event[: unit.item_width], event[unit.item_width :]
            h = torch.cat([items, age, items * target, target])
            for i, layer in enumerate(unit.layers):
                h = layer.weight @ h + layer.bias  # type: ignore[operator]
                if i < len(unit.slopes):
                    h = torch.where(h > 0, h, unit.slopes[i] * h)
            y = y + h * event
        outputs.append(y)
    return torch.stack(outputs)
