"""Asymmetric, customized, cross-stitch and sluice against literal transcriptions of their definitions, in fp64."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ple_rec.config.model import (
    AsymmetricConfig,
    CrossStitchConfig,
    CustomizedConfig,
    SluiceConfig,
    TaskExpertLevelConfig,
    TowerConfig,
)
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.normalise import DenseStatistics
from tests.models import literal_static
from tests.models.literal_copy import assert_same, slices
from tests.models.literal_static import LiteralCrossStitch, LiteralSluice, literal_asymmetric, literal_customized
from tests.models.samples import TASKS, dense_model

WIDTH = 5
SEEDS = st.integers(0, 99)
BOTTOMS = st.lists(st.integers(2, 5), min_size=1, max_size=3)
TOWERS = st.sampled_from([(), (4,), (4, 3)])
# What matters most is not left to chance: hypothesis may never draw a choice.
each_count = pytest.mark.parametrize("count", [1, 2, 3, 4])
a_few = settings(max_examples=5, deadline=None, derandomize=True)


def _levels(hidden: list[list[int]]) -> tuple[TaskExpertLevelConfig, ...]:
    return tuple(TaskExpertLevelConfig(expert_hidden=tuple(sizes)) for sizes in hidden)


# Donors in any order, of one task and of several, in chains and in circles.
RELATIONS: list[tuple[int, dict[str, tuple[str, ...]]]] = [
    (2, {"b": ("a",)}),
    (2, {"a": ("b",), "b": ("a",)}),
    (3, {"a": ("c", "b")}),
    (4, {"c": ("a",), "d": ("c", "b"), "b": ("a", "d", "c")}),
]


@pytest.mark.parametrize("combine", ["concat", "sum", "mean"])
@pytest.mark.parametrize("relation", range(len(RELATIONS)))
@a_few
@given(BOTTOMS, TOWERS, SEEDS)
def test_asymmetric_is_its_definition(
    relation: int,
    combine: Literal["concat", "sum", "mean"],
    bottom: list[int],
    tower: tuple[int, ...],
    seed: int,
) -> None:
    count, donors = RELATIONS[relation]
    tasks = TASKS[:count]
    config = AsymmetricConfig(
        variant="asymmetric",
        bottom=tuple(bottom),
        donors=donors,
        combine=combine,
        circular=True,
        tower=TowerConfig(hidden=tower),
    )
    model = dense_model(config, tasks, WIDTH, seed)
    literal = literal_asymmetric(tasks, donors, combine, bottom, WIDTH, tower)
    assert_same(model, literal.double(), WIDTH)
    assert [(legend.level, legend.mixing) for legend in model.extraction.gate_labels] == [(1, combine)]


@each_count
@a_few
@given(BOTTOMS, TOWERS, SEEDS)
def test_customized_is_its_definition(count: int, bottom: list[int], tower: tuple[int, ...], seed: int) -> None:
    tasks = TASKS[:count]
    config = CustomizedConfig(variant="customized", bottom=tuple(bottom), tower=TowerConfig(hidden=tower))
    model = dense_model(config, tasks, WIDTH, seed)
    assert_same(model, literal_customized(tasks, bottom, WIDTH, tower).double(), WIDTH)
    assert model.extraction.widths == [2 * bottom[-1]] * count
    assert [(legend.level, legend.mixing) for legend in model.extraction.gate_labels] == [(1, "concat")]


@each_count
@pytest.mark.parametrize("per_channel", [False, True])
@a_few
@given(st.lists(BOTTOMS, min_size=1, max_size=3), TOWERS, SEEDS)
def test_cross_stitch_is_its_definition(
    count: int, per_channel: bool, hidden: list[list[int]], tower: tuple[int, ...], seed: int
) -> None:
    tasks = TASKS[:count]
    config = CrossStitchConfig(
        variant="cross_stitch", levels=_levels(hidden), per_channel=per_channel, tower=TowerConfig(hidden=tower)
    )
    model = _stirred(dense_model(config, tasks, WIDTH, seed))
    assert_same(model, LiteralCrossStitch(tasks, hidden, WIDTH, tower, per_channel=per_channel).double(), WIDTH)
    mixing = "stitch_channels" if per_channel else "stitch"
    assert [(i.level, i.mixing) for i in model.extraction.gate_labels] == [(j + 1, mixing) for j in range(len(hidden))]


@each_count
@pytest.mark.parametrize(("subspaces", "depth", "weight"), [(1, 2, 0.0), (2, 1, 0.01), (2, 3, 0.0), (4, 2, 2.5)])
@a_few
@given(
    st.integers(1, 3),
    st.lists(st.lists(st.integers(2, 5), max_size=2), min_size=3, max_size=3),
    TOWERS,
    SEEDS,
)
def test_sluice_is_its_definition(
    count: int,
    subspaces: int,
    depth: int,
    weight: float,
    part: int,
    below: list[list[int]],
    tower: tuple[int, ...],
    seed: int,
) -> None:
    tasks = TASKS[:count]
    hidden = [[*sizes, subspaces * part] for sizes in below[:depth]]
    config = SluiceConfig(
        variant="sluice",
        levels=_levels(hidden),
        subspaces=subspaces,
        orthogonality=weight,
        tower=TowerConfig(hidden=tower),
    )
    model = _stirred(dense_model(config, tasks, WIDTH, seed))
    literal = LiteralSluice(tasks, hidden, subspaces, weight, WIDTH, tower).double()
    # A softmax over one level has no effect.
    left_out = [name for name, _ in literal.named_parameters() if name.startswith("beta.") and len(hidden) == 1]
    assert_same(model, literal, WIDTH, left_out)
    of_levels = [(None, "levels")] if len(hidden) > 1 else []
    described = [(legend.level, legend.mixing) for legend in model.extraction.gate_labels]
    assert described == [(j + 1, "subspaces") for j in range(len(hidden))] + of_levels


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("per_channel", [False, True])
def test_cross_stitch_starts_at_nine_tenths_of_ones_own(count: int, per_channel: bool) -> None:
    tasks = TASKS[:count]
    config = CrossStitchConfig(
        variant="cross_stitch", levels=_levels([[4], [3]]), per_channel=per_channel, tower=TowerConfig(hidden=())
    )
    literal = LiteralCrossStitch(tasks, [[4], [3]], WIDTH, (), per_channel=per_channel)
    assert _starts_as(config, tasks, literal, "alpha") == 2 * count**2


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("subspaces", [1, 2, 4])
def test_sluice_starts_at_nine_tenths_of_ones_own_subspace_and_all_levels_alike(count: int, subspaces: int) -> None:
    tasks = TASKS[:count]
    config = SluiceConfig(
        variant="sluice", levels=_levels([[4], [4]]), subspaces=subspaces, tower=TowerConfig(hidden=())
    )
    literal = LiteralSluice(tasks, [[4], [4]], subspaces, 0.01, WIDTH, ())
    assert _starts_as(config, tasks, literal, "alpha") == 2 * (count * subspaces) ** 2
    assert _starts_as(config, tasks, literal, "beta") == 2 * count
    _, gates = _fp32(config, tasks).extraction(torch.zeros(3, WIDTH))
    assert torch.equal(gates[-1], torch.full((3, count, 2), 0.5))


def test_the_start_in_numbers() -> None:
    assert literal_static._spread(True, 3) == 0.9
    assert literal_static._spread(False, 4) == pytest.approx(0.025)
    assert literal_static._spread(True, 0) == 1.0


def _stirred(model: MultiTaskModel) -> MultiTaskModel:
    """With all learned factors away from their start, where many are equal and could be mistaken for each other."""
    with torch.no_grad():
        for name, value in slices(model).items():
            if ".alpha." in name or name.startswith("beta."):
                value += torch.randn_like(value)
    return model


def _fp32(config: CrossStitchConfig | SluiceConfig, tasks: tuple[str, ...]) -> MultiTaskModel:
    return MultiTaskModel(config, tasks, None, [DenseStatistics("none")] * WIDTH)


def _starts_as(
    config: CrossStitchConfig | SluiceConfig, tasks: tuple[str, ...], literal: torch.nn.Module, part: str
) -> int:
    """How many factors of `part` a new model has, all of which start as the literal's."""
    own = dict(literal.named_parameters())
    found = {name: value for name, value in slices(_fp32(config, tasks)).items() if part in name.split(".")}
    for name, value in found.items():
        torch.testing.assert_close(value, own[name], rtol=1e-6, atol=0, msg=name)
    return len(found)
