"""The program's PLE and ML-MMoE against literal transcriptions of their definitions, in fp64."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ple_rec.config.model import LevelConfig, MlMmoeConfig, MlMmoeLevelConfig, PleConfig, TowerConfig
from tests.models.literal import LiteralPle
from tests.models.literal_copy import assert_same
from tests.models.literal_ml_mmoe import LiteralMlMmoe
from tests.models.samples import TASKS, dense_model

WIDTH = 7

ONE = [LevelConfig(task_experts={"a": 1, "b": 3}, shared_experts=2, expert_hidden=(5,))]
TWO = [
    LevelConfig(task_experts={"a": 2, "b": 1, "c": 3}, shared_experts=3, expert_hidden=(6, 5)),
    LevelConfig(task_experts={"a": 1, "b": 2, "c": 1}, shared_experts=1, expert_hidden=(4,)),
]
THREE = [
    LevelConfig(task_experts={"a": 2, "b": 0, "c": 1, "d": 1}, shared_experts=1, expert_hidden=(6,)),
    LevelConfig(task_experts={"a": 0, "b": 1, "c": 2, "d": 1}, shared_experts=2, expert_hidden=(5, 6)),
    LevelConfig(task_experts={"a": 1, "b": 1, "c": 0, "d": 3}, shared_experts=2, expert_hidden=(4, 3)),
]
# Parameters that the literal has and the program leaves out: gates over a single expert.
CASES = {
    "one level, two tasks": (ONE, 2, (), set()),
    "two levels, three tasks": (TWO, 3, (4,), set()),
    "three levels, four tasks": (THREE, 4, (4, 3), {"levels.0.gates.b.weight"}),
    "no shared expert": (
        [LevelConfig(task_experts={"a": 1, "b": 2}, shared_experts=0, expert_hidden=(5, 4))],
        2,
        (4,),
        {"levels.0.gates.a.weight"},
    ),
    "no own expert": ([LevelConfig(task_experts=0, shared_experts=3, expert_hidden=(5,))], 3, (4,), set()),
    # c reads one shared expert at the top: no gate there, and nobody reads its stream below, whose gate is idle.
    "unread stream": (
        [
            LevelConfig(task_experts=1, shared_experts=1, expert_hidden=(6,)),
            LevelConfig(task_experts=1, shared_experts=1, expert_hidden=(5,)),
            LevelConfig(task_experts={"a": 1, "b": 2, "c": 0}, shared_experts=1, expert_hidden=(4,)),
        ],
        3,
        (),
        {"levels.2.gates.c.weight"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_ple_is_the_equations_of_its_paper(case: str) -> None:
    levels, count, tower, left_out = CASES[case]
    tasks = TASKS[:count]
    config = PleConfig(variant="ple", levels=tuple(levels), tower=TowerConfig(hidden=tower))
    model = dense_model(config, tasks, WIDTH)
    gradients = assert_same(model, LiteralPle(tasks, levels, WIDTH, tower).double(), WIDTH, left_out)
    idle = [name for name, gradient in gradients.items() if not gradient.any()]
    assert idle == (["levels.1.gates.c.weight"] if case == "unread stream" else [])


LEVELS = st.lists(
    st.tuples(st.integers(1, 3), st.lists(st.integers(2, 5), min_size=1, max_size=3)), min_size=1, max_size=3
)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@settings(max_examples=8, deadline=None, derandomize=True)
@given(LEVELS, st.sampled_from([(), (4,), (4, 3)]), st.integers(0, 99))
def test_ml_mmoe_is_its_definition(
    count: int, levels: list[tuple[int, list[int]]], tower: tuple[int, ...], seed: int
) -> None:
    tasks = TASKS[:count]
    config = MlMmoeConfig(
        variant="ml_mmoe",
        levels=tuple(MlMmoeLevelConfig(experts=n, expert_hidden=tuple(hidden)) for n, hidden in levels),
        tower=TowerConfig(hidden=tower),
    )
    model = dense_model(config, tasks, WIDTH, seed)
    literal = LiteralMlMmoe(tasks, levels, WIDTH, tower).double()
    gates = [name for name, _ in literal.named_parameters() if ".gates." in name]
    single = {name for name in gates if levels[int(name.split(".")[1])][0] == 1}
    assert_same(model, literal, WIDTH, left_out=single)
    assert [legend.level for legend in model.extraction.gate_labels] == list(range(1, len(levels) + 1))
    assert {legend.mixing for legend in model.extraction.gate_labels} == {"softmax"}
