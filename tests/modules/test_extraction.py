"""Levels one after the other: what a level passes on, what the network gives, what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ple_rec.config.model import LevelConfig, PleConfig, SluiceConfig, TaskExpertLevelConfig
from ple_rec.models.variants import ple, sluice
from ple_rec.modules import mixing
from ple_rec.modules.extraction import ExtractionNetwork
from ple_rec.modules.grouped import Inputs
from ple_rec.modules.mixing import SoftmaxGates
from ple_rec.modules.routing import SELECT_BY_X, Routing

LEVEL = LevelConfig(expert_hidden=(6,))
ROUTINGS = ple(PleConfig(variant="ple", levels=(LEVEL, LEVEL)), ["a", "b"])


def test_a_gate_of_a_higher_level_may_select_by_x() -> None:
    torch.manual_seed(0)
    by_x = replace(ROUTINGS[1], selector_O=(SELECT_BY_X, SELECT_BY_X))
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

        def forward(self, h_BEH: Tensor, streams: Sequence[Inputs]) -> tuple[list[Tensor], Tensor]:
            y, a_BOE = super().forward(h_BEH, streams)
            return [torch.cat([value, value], dim=1) for value in y], a_BOE

    monkeypatch.setitem(mixing.MIXINGS, "twice", Twice)
    network = ExtractionNetwork([replace(routing, mixing="twice") for routing in ROUTINGS], 4, "relu", 0.0)
    outputs, _ = network(torch.randn(3, 4))
    assert network.widths == [12, 12]
    assert [tuple(output.shape) for output in outputs] == [(3, 12), (3, 12)]


def test_concatenated_outputs_are_the_wider_streams_of_the_next_level() -> None:
    reads = ((True, False), (True, True))
    lower = Routing(("a.0", "b.0"), (0, 0), ("a", "b"), reads, (0, 0), (3,), mixing="concat")
    upper = Routing(("a.0", "b.0"), (0, 1), ("a", "b"), reads, (SELECT_BY_X, 1), (5, 2))
    network = ExtractionNetwork([lower, upper], 4, "tanh", 0.0).double()
    assert [tuple(weight.shape) for weight in network.levels[1].experts.first_weights] == [(5, 3), (5, 6)]  # type: ignore[union-attr]
    x_BD = torch.randn(7, 4, dtype=torch.float64)
    (a, b), (_, a_BOE) = network(x_BD)
    h_BEH = network.levels[0].experts([x_BD])  # type: ignore[operator]
    streams = [h_BEH[:, 0], h_BEH.flatten(1)]
    h_BEH = network.levels[1].experts(streams)  # type: ignore[operator]
    assert torch.equal(a, h_BEH[:, 0])
    gate = network.levels[1].mixing.weights[0]  # type: ignore[union-attr, index]
    torch.testing.assert_close(a_BOE[:, 1], torch.softmax(streams[1] @ gate.T, dim=1))
    torch.testing.assert_close(b, (a_BOE[:, 1].unsqueeze(2) * h_BEH).sum(1))
    assert network.widths == [2, 2]


def _sluice(orthogonality: float, *widths: int) -> list[Routing]:
    levels = tuple(TaskExpertLevelConfig(expert_hidden=(width,)) for width in widths)
    return sluice(SluiceConfig(variant="sluice", levels=levels, orthogonality=orthogonality), ["a", "b"])


def test_every_a_has_a_legend_and_the_levels_mix_comes_last() -> None:
    network = ExtractionNetwork(_sluice(0.0, 6, 6, 6), 4, "relu", 0.0)
    assert [(legend.level, legend.mixing) for legend in network.gate_labels] == [
        (1, "subspaces"),
        (2, "subspaces"),
        (3, "subspaces"),
        (None, "levels"),
    ]
    _, gates = network(torch.randn(3, 4))
    assert [tuple(a_BOE.shape) for a_BOE in gates] == [(3, 4, 4)] * 3 + [(3, 2, 3)]


def test_a_single_level_is_not_mixed() -> None:
    network = ExtractionNetwork(_sluice(0.0, 6), 4, "relu", 0.0)
    assert network.level_mixing is None
    assert [legend.level for legend in network.gate_labels] == [1]
    (a, b), gates = network(torch.randn(3, 4))
    assert a.shape == b.shape == (3, 6)
    assert len(gates) == 1


def test_the_penalty_is_the_sum_over_levels_and_falls_by_training_on_it() -> None:
    torch.manual_seed(0)
    network = ExtractionNetwork(_sluice(2.0, 6, 6), 4, "relu", 0.0)
    penalty = network.penalty()
    assert penalty is not None
    banks = [level.experts for level in network.levels]
    expected = 2 * sum(bank.orthogonality(2) for bank in banks)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(penalty, expected)
    start = penalty.item()
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    for _ in range(50):
        optimizer.zero_grad()
        penalty = network.penalty()
        assert penalty is not None
        penalty.backward()
        optimizer.step()
    assert 0 <= penalty.item() < 0.5 * start


@pytest.mark.parametrize(
    "change",
    [
        {0: {"hidden": (4,)}},
        {0: {"outputs": ("a", "c")}},
        {0: {"mix_levels": True}},
        {0: {"mix_levels": True}, 1: {"mix_levels": False}},
    ],
    ids=["widths", "names", "twice", "below"],
)
def test_levels_that_cannot_be_mixed_are_refused(change: dict[int, dict[str, tuple[object, ...]]]) -> None:
    routings = [replace(routing, **change.get(i, {})) for i, routing in enumerate(_sluice(0.0, 6, 6))]  # type: ignore[arg-type]
    message = "^only the last level has mix_levels, and then all levels need its outputs and its width$"
    with pytest.raises(ValueError, match=message):
        ExtractionNetwork(routings, 4, "relu", 0.0)
