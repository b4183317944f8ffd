"""Routings of the variants: who reads whom, for any number of tasks and experts."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ple_rec.config.model import (
    AsymmetricConfig,
    CgcConfig,
    CrossStitchConfig,
    CustomizedConfig,
    HardSharingConfig,
    LevelConfig,
    MlMmoeConfig,
    MlMmoeLevelConfig,
    MmoeConfig,
    ModelConfig,
    SingleTaskConfig,
    SluiceConfig,
    TaskExpertLevelConfig,
)
from ple_rec.errors import UserError
from ple_rec.models.variants import (
    VARIANTS,
    asymmetric,
    cgc,
    cgc_level,
    cross_stitch,
    customized,
    hard_sharing,
    ml_mmoe,
    mmoe,
    single_task,
    sluice,
)
from ple_rec.modules.routing import SELECT_BY_X
from tests.models.strategies import networks


@settings(max_examples=60, deadline=None, derandomize=True)
@given(networks(), st.booleans(), st.booleans())
def test_reads_are_symmetric_between_owners(
    network: tuple[tuple[str, ...], tuple[LevelConfig, ...]], first: bool, last: bool
) -> None:
    tasks, (level, *_) = network
    routing = cgc_level(tasks, level, first=first, last=last)
    owners = [name.split(".")[0] for name in routing.experts]
    assert owners == [owner for owner in (*tasks, "shared") for _ in range(_count(level, owner))]
    assert len(set(routing.experts)) == len(routing.experts)
    reads = {
        (output, owner): read
        for output, row in zip(routing.outputs, routing.edges_OE, strict=True)
        for owner, read in zip(owners, row, strict=True)
    }
    for (output, owner), read in reads.items():
        assert read == (output == owner or output == "shared" or owner == "shared")
        assert reads.get((owner, output), read) == read
    assert routing.outputs == (tasks if last else (*tasks, "shared"))
    assert routing.selector_O == (tuple([0] * len(routing.outputs)) if first else tuple(range(len(routing.outputs))))


def test_routings_of_single_task_hard_sharing_mmoe_and_cgc() -> None:
    tasks = ("a", "b")
    own, shared = (True, False), (False, True)
    (routing,) = single_task(SingleTaskConfig(variant="single_task", bottom=(3, 2)), tasks)
    assert (routing.experts, routing.edges_OE, routing.hidden) == (("a.0", "b.0"), (own, shared), (3, 2))
    (routing,) = hard_sharing(HardSharingConfig(variant="hard_sharing", bottom=(3,)), tasks)
    assert (routing.experts, routing.edges_OE) == (("shared.0",), ((True,), (True,)))
    (routing,) = mmoe(MmoeConfig(variant="mmoe", experts=2, expert_hidden=(3,)), tasks)
    assert (routing.experts, routing.edges_OE) == (("shared.0", "shared.1"), ((True, True), (True, True)))
    (routing,) = cgc(CgcConfig(variant="cgc", task_experts={"a": 1, "b": 2}, expert_hidden=(3,)), tasks)
    assert routing.experts == ("a.0", "b.0", "b.1", "shared.0")
    assert routing.edges_OE == ((True, False, False, True), (False, True, True, True))


def test_routings_of_asymmetric_and_customized() -> None:
    tasks = ("a", "b", "c")
    (routing,) = asymmetric(
        AsymmetricConfig(variant="asymmetric", bottom=(3, 2), donors={"c": ("b", "a")}, combine="sum"), tasks
    )
    assert (routing.experts, routing.source_E, routing.hidden) == (("a.0", "b.0", "c.0"), (0, 0, 0), (3, 2))
    assert routing.edges_OE == ((True, False, False), (False, True, False), (True, True, True))
    assert routing.mixing == "sum"
    (routing,) = customized(CustomizedConfig(variant="customized", bottom=(3,)), ("a", "b"))
    assert routing.experts == ("a.0", "b.0", "shared.0")
    assert routing.edges_OE == ((True, False, True), (False, True, True))
    assert routing.mixing == "concat"


def test_routings_of_cross_stitch_and_sluice() -> None:
    levels = (TaskExpertLevelConfig(expert_hidden=(5, 4)), TaskExpertLevelConfig(expert_hidden=(4,)))
    stitch = cross_stitch(CrossStitchConfig(variant="cross_stitch", levels=levels), ("a", "b"))
    for routing, sources in zip(stitch, ((0, 0), (0, 1)), strict=True):
        assert (routing.experts, routing.source_E) == (("a.0", "b.0"), sources)
        assert (routing.outputs, routing.edges_OE) == (("a", "b"), ((True, True), (True, True)))
    assert [routing.hidden for routing in stitch] == [(5, 4), (4,)]
    config = SluiceConfig(variant="sluice", levels=levels, subspaces=2, orthogonality=0.5)
    for routing, plain in zip(sluice(config, ("a", "b")), stitch, strict=True):
        last = plain is stitch[-1]
        assert routing == replace(plain, mixing="subspaces", subspaces=2, orthogonality=0.5, mix_levels=last)


def test_routings_of_ml_mmoe() -> None:
    levels = tuple(MlMmoeLevelConfig(experts=n, expert_hidden=(n,)) for n in (3, 2))
    lower, upper = ml_mmoe(MlMmoeConfig(variant="ml_mmoe", levels=levels), ("a", "b", "c"))
    assert (lower.experts, lower.source_E) == (("shared.0", "shared.1", "shared.2"), (0, 0, 0))
    assert (lower.outputs, lower.selector_O) == (("level 2 shared.0", "level 2 shared.1"), (SELECT_BY_X, SELECT_BY_X))
    assert (upper.experts, upper.source_E) == (("shared.0", "shared.1"), (0, 1))
    assert (upper.outputs, upper.selector_O) == (("a", "b", "c"), (SELECT_BY_X, SELECT_BY_X, SELECT_BY_X))
    assert all(all(row) for routing in (lower, upper) for row in routing.edges_OE)


REFUSED: list[ModelConfig] = [
    CgcConfig(variant="cgc"),
    SingleTaskConfig(variant="single_task"),
    MmoeConfig(variant="mmoe", experts=2),
    CustomizedConfig(variant="customized"),
    MlMmoeConfig(variant="ml_mmoe", levels=(MlMmoeLevelConfig(experts=2),)),
]


@pytest.mark.parametrize("config", REFUSED, ids=lambda config: config.variant)
def test_a_task_named_shared_is_refused(config: ModelConfig) -> None:
    message = (
        "tasks: a task is named 'shared'; experts are named after their task, and shared experts have this name. "
        "Fix: rename the task in the dataset's recipe"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        VARIANTS[config.variant](config, ("shared", "b"))


def _count(level: LevelConfig, owner: str) -> int:
    return level.shared_experts if owner == "shared" else level.own_experts(owner)
