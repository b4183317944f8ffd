from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ple_rec.config.model import LevelConfig, PleConfig
from ple_rec.models.variants import ple
from ple_rec.modules import mixing
from ple_rec.modules.extraction import ExtractionNetwork
from ple_rec.modules.mixing import SoftmaxGates
from ple_rec.modules.routing import Routing, X

LEVEL = LevelConfig(expert_hidden=(6,))
ROUTINGS = ple(PleConfig(variant="ple", levels=(LEVEL, LEVEL)), ["a", "b"])


def test_a_gate_of_a_higher_level_may_select_by_x() -> None:
    torch.manual_seed(0)
    by_x = replace(ROUTINGS[1], selector_O=(X, X))
    network = ExtractionNetwork([ROUTINGS[0], by_x], 4, "relu", 0.0)
    gates = network.levels[1].mixing
    assert isinstance(gates, SoftmaxGates)
    assert [tuple(weight.shape) for weight in gates.weights] == [(4, 4)]  # both gates in one matrix, over x
    x_BD = torch.randn(3, 4)
    _, (_, a_BOE) = network(x_BD)
    logits = x_BD @ gates.weights[0].T
    torch.testing.assert_close(a_BOE[:, 0, [0, 2]], torch.softmax(logits[:, :2], -1))
    torch.testing.assert_close(a_BOE[:, 1, [1, 2]], torch.softmax(logits[:, 2:], -1))


def test_a_mixing_decides_the_widths_of_the_next_level(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(SoftmaxGates):
        def __init__(self, routing: Routing, widths: Sequence[int]) -> None:
            super().__init__(routing, widths)
            self.widths = [2 * width for width in self.widths]

        def forward(self, h_BEH: Tensor, streams: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
            y, a_BOE = super().forward(h_BEH, streams)
            return [torch.cat([value, value], dim=1) for value in y], a_BOE

    monkeypatch.setitem(mixing.MIXINGS, "twice", Twice)
    network = ExtractionNetwork([replace(routing, mixing="twice") for routing in ROUTINGS], 4, "relu", 0.0)
    outputs, _ = network(torch.randn(3, 4))
    assert network.widths == [12, 12]
    assert [tuple(output.shape) for output in outputs] == [(3, 12), (3, 12)]
