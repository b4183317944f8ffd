"""What must hold between the gated variants and inside each, in fp64."""

from __future__ import annotations

import pytest
import torch

from ple_rec.config.model import (
    CgcConfig,
    HardSharingConfig,
    LevelConfig,
    MlMmoeConfig,
    MlMmoeLevelConfig,
    MmoeConfig,
    ModelConfig,
    PleConfig,
    SingleTaskConfig,
    TowerConfig,
)
from ple_rec.modules.extraction import ExtractionLevel
from tests.models.literal_copy import gradients_of_task, slices
from tests.models.samples import dense_batch, dense_model

WIDTH, BATCH, TASKS = 6, 8, ("a", "b", "c")
X_BD = torch.randn(BATCH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _same_model(one: ModelConfig, other: ModelConfig) -> None:
    """The weights of one fit the other key by key, and then both say the same."""
    first, second = dense_model(one, TASKS, WIDTH), dense_model(other, TASKS, WIDTH, seed=5)
    assert not torch.equal(first(dense_batch(X_BD))[0], second(dense_batch(X_BD))[0])
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(dense_batch(X_BD))[0], second(dense_batch(X_BD))[0])


def test_cgc_without_own_experts_is_mmoe() -> None:
    _same_model(
        CgcConfig(variant="cgc", task_experts=0, shared_experts=3, expert_hidden=(5, 4)),
        MmoeConfig(variant="mmoe", experts=3, expert_hidden=(5, 4)),
    )


def test_mmoe_is_the_formula_of_its_paper() -> None:
    model = dense_model(MmoeConfig(variant="mmoe", experts=3, expert_hidden=(5,)), TASKS, WIDTH)
    w = slices(model)
    h = [
        torch.relu(
            X_BD @ w[f"levels.0.experts.shared.{i}.layers.0.weight"].T + w[f"levels.0.experts.shared.{i}.layers.0.bias"]
        )
        for i in range(3)
    ]
    outputs, _ = model.extraction(X_BD)
    for task, y_BH in zip(TASKS, outputs, strict=True):
        gate = torch.softmax(X_BD @ w[f"levels.0.gates.{task}.weight"].T, dim=1)
        torch.testing.assert_close(y_BH, sum(gate[:, i : i + 1] * h[i] for i in range(3)), rtol=1e-12, atol=1e-14)


def test_mmoe_with_one_expert_is_hard_sharing_and_has_no_gate() -> None:
    one = MmoeConfig(variant="mmoe", experts=1, expert_hidden=(5, 4))
    hard = HardSharingConfig(variant="hard_sharing", bottom=(5, 4))
    _same_model(one, hard)
    bottom = (WIDTH * 5 + 5) + (5 * 4 + 4)
    towers = len(TASKS) * ((4 * 64 + 64) + (64 + 1))
    assert dense_model(one, TASKS, WIDTH).dense_parameters() == bottom + towers


def test_ple_of_one_level_is_cgc() -> None:
    level = LevelConfig(task_experts={"a": 1, "b": 2, "c": 0}, shared_experts=2, expert_hidden=(5,))
    _same_model(
        PleConfig(variant="ple", levels=(level,)),
        CgcConfig(variant="cgc", task_experts={"a": 1, "b": 2, "c": 0}, shared_experts=2, expert_hidden=(5,)),
    )


def test_cgc_with_only_own_experts_is_single_task() -> None:
    _same_model(
        CgcConfig(variant="cgc", task_experts=1, shared_experts=0, expert_hidden=(5, 4)),
        SingleTaskConfig(variant="single_task", bottom=(5, 4)),
    )


def test_ml_mmoe_of_one_level_is_mmoe() -> None:
    _same_model(
        MlMmoeConfig(variant="ml_mmoe", levels=(MlMmoeLevelConfig(experts=3, expert_hidden=(5, 4)),)),
        MmoeConfig(variant="mmoe", experts=3, expert_hidden=(5, 4)),
    )


def test_every_gate_of_ml_mmoe_selects_by_x_and_by_nothing_else() -> None:
    levels = tuple(MlMmoeLevelConfig(experts=n, expert_hidden=(5,)) for n in (3, 2, 4))
    model = dense_model(MlMmoeConfig(variant="ml_mmoe", levels=levels), TASKS, WIDTH)
    other_BD, fixed_BD = torch.randn(2, BATCH, WIDTH, dtype=torch.float64)
    for j, level in enumerate(model.extraction.levels):
        assert isinstance(level, ExtractionLevel)
        streams = [torch.randn(BATCH, 5, dtype=torch.float64) for _ in range(levels[j].experts)] if j else [fixed_BD]
        h_BEH = level.experts(streams)
        for x_BD in (X_BD, other_BD):
            y, a_BOE = level(streams, x_BD)
            weights = [
                slices(model)[f"levels.{j}.gates.{output.split()[-1]}.weight"] for output in level.routing.outputs
            ]
            expected_BOE = torch.stack([torch.softmax(x_BD @ weight.T, dim=1) for weight in weights], dim=1)
            torch.testing.assert_close(a_BOE, expected_BOE, rtol=1e-12, atol=0)
            torch.testing.assert_close(torch.stack(y, dim=1), expected_BOE @ h_BEH)
        assert torch.equal(level([2 * stream for stream in streams], other_BD)[1], a_BOE)


TOWER = TowerConfig(hidden=(4,), activation="tanh")  # relu may be dead in so small a model
LEVEL = LevelConfig(task_experts={"a": 2, "b": 1, "c": 1}, shared_experts=1, expert_hidden=(5, 4))
ISOLATED: dict[str, tuple[ModelConfig, int]] = {
    "cgc": (
        CgcConfig(
            variant="cgc",
            task_experts={"a": 2, "b": 1, "c": 1},
            shared_experts=1,
            expert_hidden=(5, 4),
            activation="tanh",
            tower=TOWER,
        ),
        0,
    ),
    "ple, last level": (PleConfig(variant="ple", levels=(LEVEL, LEVEL), activation="tanh", tower=TOWER), 1),
}


@pytest.mark.parametrize("case", ISOLATED)
@pytest.mark.parametrize("task", range(3))
def test_the_loss_of_a_task_leaves_other_tasks_own_parts_alone(case: str, task: int) -> None:
    config, last = ISOLATED[case]
    gradients = gradients_of_task(dense_model(config, TASKS, WIDTH), X_BD, task)
    for name, gradient in gradients.items():
        owner = name.split(".")[3] if name.startswith(f"levels.{last}") else name.split(".")[1]
        if owner in TASKS:
            assert gradient.any() == (owner == TASKS[task]), name
        if name.startswith(f"levels.{last}.experts.shared"):
            assert gradient.any(), name


def test_the_lower_level_of_ple_learns_from_every_task() -> None:
    config = PleConfig(variant="ple", levels=(LEVEL, LEVEL), activation="tanh", tower=TOWER)
    gradients = gradients_of_task(dense_model(config, TASKS, WIDTH), X_BD, 0)
    assert all(gradients[f"levels.0.experts.{owner}.0.layers.0.weight"].any() for owner in (*TASKS, "shared"))
    assert not gradients["levels.0.gates.b.weight"].any()
    assert gradients["levels.0.gates.shared.weight"].any()


@pytest.mark.parametrize("task", range(3))
def test_in_single_task_nothing_of_the_others_is_touched(task: int) -> None:
    model = dense_model(
        SingleTaskConfig(variant="single_task", bottom=(5, 4), activation="tanh", tower=TOWER), TASKS, WIDTH
    )
    for name, gradient in gradients_of_task(model, X_BD, task).items():
        assert gradient.any() == (TASKS[task] in name.split(".")), name


def test_gates_of_every_level_sum_to_one_and_skip_what_is_not_read() -> None:
    model = dense_model(PleConfig(variant="ple", levels=(LEVEL, LEVEL), activation="tanh", tower=TOWER), TASKS, WIDTH)
    _, gates = model(dense_batch(X_BD))
    assert len(gates) == 2
    for level, a_BOE in zip(model.extraction.levels, gates, strict=True):
        edges_OE = torch.tensor(level.routing.edges_OE)  # type: ignore[union-attr]
        assert a_BOE.shape == (BATCH, *edges_OE.shape)
        torch.testing.assert_close(a_BOE.sum(2), torch.ones(a_BOE.shape[:2], dtype=torch.float64))
        assert torch.equal(a_BOE != 0, edges_OE.expand_as(a_BOE))


def test_dropout_and_input_dropout_act_in_training_only() -> None:
    config = CgcConfig(variant="cgc", expert_hidden=(64,), dropout=0.5, input_dropout=0.5)
    model = dense_model(config, TASKS, WIDTH)
    h_BEH = model.extraction.levels[0].experts([X_BD])  # type: ignore[operator]
    clean_BEH = model.eval().extraction.levels[0].experts([X_BD])  # type: ignore[operator]
    assert torch.equal(model(dense_batch(X_BD))[0], model(dense_batch(X_BD))[0])
    assert bool(((h_BEH == 0) | torch.isclose(h_BEH, 2 * clean_BEH)).all())
    assert 0.4 < ((h_BEH == 0) & (clean_BEH > 0)).sum() / (clean_BEH > 0).sum() < 0.6
    assert not torch.equal(model.train()(dense_batch(X_BD))[0], model(dense_batch(X_BD))[0])
