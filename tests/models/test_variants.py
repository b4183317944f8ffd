"""Routings of the variants: who reads whom, for any number of tasks and experts."""

from __future__ import annotations

import re
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ple_rec.config.model import (
    CgcConfig,
    HardSharingConfig,
    LevelConfig,
    MmoeConfig,
    PleConfig,
    SingleTaskConfig,
    TowerConfig,
)
from ple_rec.errors import UserError
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.models.variants import VARIANTS, cgc, cgc_level, hard_sharing, mmoe, single_task
from ple_rec.modules.extraction import ExtractionLevel
from ple_rec.modules.routing import Routing
from tests.models.literal import slices
from tests.models.samples import TASKS, dense_batch, dense_model

COUNTS = st.integers(0, 2)


@st.composite
def networks(draw: st.DrawFn) -> tuple[tuple[str, ...], tuple[LevelConfig, ...]]:
    tasks = TASKS[: draw(st.integers(1, 4))]
    depth = draw(st.integers(1, 3))
    return tasks, tuple(
        LevelConfig(
            task_experts={task: draw(COUNTS) for task in tasks},
            shared_experts=draw(st.integers(1, 3)),
            expert_hidden=tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))),
        )
        for _ in range(depth)
    )


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
        for output, row in zip(routing.outputs, routing.reads_OE, strict=True)
        for owner, read in zip(owners, row, strict=True)
    }
    for (output, owner), read in reads.items():
        assert read == (output == owner or output == "shared" or owner == "shared")
        assert reads.get((owner, output), read) == read
    assert routing.outputs == (tasks if last else (*tasks, "shared"))
    assert routing.selector_O == (tuple([0] * len(routing.outputs)) if first else tuple(range(len(routing.outputs))))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(networks(), st.randoms(use_true_random=False))
def test_permuted_tasks_permute_the_outputs(
    network: tuple[tuple[str, ...], tuple[LevelConfig, ...]], random: Random
) -> None:
    tasks, levels = network
    order = list(range(len(tasks)))
    random.shuffle(order)
    config = PleConfig(variant="ple", levels=levels)
    model, permuted = dense_model(config, tasks, 3), dense_model(config, [tasks[k] for k in order], 3, seed=9)
    source = slices(model)
    with torch.no_grad():
        for name, value in slices(permuted).items():
            if name.endswith("gates.shared.weight"):  # its rows stand in the order of all experts
                level = int(name.split(".")[1])
                rows = [list(_routing(model, level).experts).index(e) for e in _routing(permuted, level).experts]
                value.copy_(source.pop(name)[rows])
            else:
                value.copy_(source.pop(name))
    assert not source
    x_BD = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    torch.testing.assert_close(permuted(dense_batch(x_BD))[0], model(dense_batch(x_BD))[0][:, order])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(networks())
def test_every_parameter_has_a_gradient(network: tuple[tuple[str, ...], tuple[LevelConfig, ...]]) -> None:
    tasks, levels = network
    tower = TowerConfig(hidden=(3,), activation="tanh")
    model = dense_model(PleConfig(variant="ple", levels=levels, activation="tanh", tower=tower), tasks, 3)
    x_BD = torch.linspace(-2, 1, 12, dtype=torch.float64).view(4, 3)
    model(dense_batch(x_BD))[0].square().sum().backward()
    ungraded = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert ungraded == []  # DistributedDataParallel waits for every parameter's gradient


def test_the_five_variants() -> None:
    tasks = ("a", "b")
    own, shared = (True, False), (False, True)
    (routing,) = single_task(SingleTaskConfig(variant="single_task", bottom=(3, 2)), tasks)
    assert (routing.experts, routing.reads_OE, routing.hidden) == (("a.0", "b.0"), (own, shared), (3, 2))
    (routing,) = hard_sharing(HardSharingConfig(variant="hard_sharing", bottom=(3,)), tasks)
    assert (routing.experts, routing.reads_OE) == (("shared.0",), ((True,), (True,)))
    (routing,) = mmoe(MmoeConfig(variant="mmoe", experts=2, expert_hidden=(3,)), tasks)
    assert (routing.experts, routing.reads_OE) == (("shared.0", "shared.1"), ((True, True), (True, True)))
    (routing,) = cgc(CgcConfig(variant="cgc", task_experts={"a": 1, "b": 2}, expert_hidden=(3,)), tasks)
    assert routing.experts == ("a.0", "b.0", "b.1", "shared.0")
    assert routing.reads_OE == ((True, False, False, True), (False, True, True, True))
    assert sorted(VARIANTS) == ["cgc", "hard_sharing", "mmoe", "ple", "single_task"]


@pytest.mark.parametrize(
    "config",
    [CgcConfig(variant="cgc"), SingleTaskConfig(variant="single_task"), MmoeConfig(variant="mmoe", experts=2)],
    ids=lambda config: config.variant,
)
def test_a_task_named_shared_is_refused(config: CgcConfig | MmoeConfig | SingleTaskConfig) -> None:
    message = (
        "tasks: a task is named 'shared'; experts are named after their owner, and the shared ones have that name. "
        "Fix: rename the task in the dataset's recipe"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        VARIANTS[config.variant](config, ("shared", "b"))


def _count(level: LevelConfig, owner: str) -> int:
    return level.shared_experts if owner == "shared" else level.own(owner)


def _routing(model: MultiTaskModel, level: int) -> Routing:
    part = model.extraction.levels[level]
    assert isinstance(part, ExtractionLevel)
    return part.routing
