"""The program's PLE against a literal transcription of Eq. 2-7, in fp64."""

from __future__ import annotations

import pytest
import torch

from ple_rec.config.model import LevelConfig, PleConfig, TowerConfig
from tests.models.literal import LiteralPle, copy_into, slices
from tests.models.samples import TASKS, dense_batch, dense_model

WIDTH, BATCH = 7, 9

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
def test_outputs_gradients_and_parameters_are_those_of_the_equations(case: str) -> None:
    levels, count, tower, left_out = CASES[case]
    tasks = TASKS[:count]
    config = PleConfig(variant="ple", levels=tuple(levels), tower=TowerConfig(hidden=tower))
    model = dense_model(config, tasks, WIDTH)
    literal = LiteralPle(tasks, levels, WIDTH, tower).double()
    assert copy_into(literal, model) == left_out
    dead = sum(p.numel() for name, p in literal.named_parameters() if name in left_out)
    assert model.dense_parameters() == sum(p.numel() for p in literal.parameters()) - dead
    assert sum(value.numel() for value in slices(model).values()) == sum(p.numel() for p in model.parameters())

    x_BD = torch.randn(BATCH, WIDTH, dtype=torch.float64)
    ours_BD, theirs_BD = x_BD.clone().requires_grad_(), x_BD.clone().requires_grad_()
    logits_BK, _ = model(dense_batch(ours_BD))
    expected_BK = literal(theirs_BD)
    torch.testing.assert_close(logits_BK, expected_BK, rtol=1e-12, atol=1e-13)

    weights_BK = torch.randn(BATCH, count, dtype=torch.float64)
    (logits_BK.sin() * weights_BK).sum().backward()
    (expected_BK.sin() * weights_BK).sum().backward()
    torch.testing.assert_close(ours_BD.grad, theirs_BD.grad, rtol=1e-11, atol=1e-13)
    ours = slices(model, of=_gradient)
    for name, parameter in literal.named_parameters():
        if name in left_out:
            assert not _gradient(parameter).any(), name
        else:
            assert torch.allclose(ours[name], _gradient(parameter), rtol=1e-11, atol=1e-13), name
    idle = [name for name, gradient in ours.items() if not gradient.any()]
    assert idle == (["levels.1.gates.c.weight"] if case == "unread stream" else [])


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad
