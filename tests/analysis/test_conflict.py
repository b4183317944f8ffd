"""Gradient conflict: cosines on models whose gradients are known, and a run that stays as it is."""

from __future__ import annotations

import copy
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ple_rec.analysis.conflict import gradient_batches, measure_conflicts, pairwise_cosines, task_gradients
from ple_rec.config.model import CgcConfig, HardSharingConfig, ModelConfig, SingleTaskConfig, TowerConfig
from ple_rec.config.run import TaskConfig
from ple_rec.data.batch import Batch
from ple_rec.models.losses import LOSSES
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.normalise import DenseStatistics
from ple_rec.training.preflight import load_run_config
from ple_rec.training.trained import load_trained_weights, open_trained_run
from tests.training.small import whole_tables

ROWS, WIDTH = 40, 5
LINEAR = TowerConfig(hidden=())
HARD = HardSharingConfig(variant="hard_sharing", bottom=(8,), activation="tanh", tower=LINEAR)
LOSS = LOSSES["cross_entropy"](TaskConfig(name="any"))


def _model(config: ModelConfig, *, same_towers: bool = False) -> MultiTaskModel:
    torch.manual_seed(0)
    model = MultiTaskModel(config, ("a", "b"), None, [DenseStatistics("none")] * WIDTH)
    if same_towers:
        model.towers[1].load_state_dict(copy.deepcopy(model.towers[0].state_dict()))
        for tower in model.towers:
            for parameter in tower.parameters():
                parameter.data *= 1e-4  # so that every prediction is about 1/2
    return model


def _batch(labels_BK: Tensor, in_space_BK: Tensor | None = None) -> Batch:
    inside = torch.ones(ROWS, 2) if in_space_BK is None else in_space_BK
    x_BF = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1))
    return Batch(None, x_BF, labels_BK, inside, None, None, ROWS)


def _labels() -> Tensor:
    return (torch.rand(ROWS, generator=torch.Generator().manual_seed(2)) < 0.5).float()


def _cosines(model: MultiTaskModel, batch: Batch) -> list[tuple[float, int]]:
    """Return the cosine of both tasks and the elements that it is on: of the inputs, and of the parameters."""
    of_a, of_b = task_gradients(model, [LOSS, LOSS], batch)
    found = (pairwise_cosines([of_a[part], of_b[part]]) for part in (slice(1), slice(1, None)))
    return [(float(cosine_KK[0, 1]), int(count_KK[0, 1])) for cosine_KK, count_KK in found]


def test_all_pairs_at_once_are_each_pair_alone() -> None:
    torch.manual_seed(3)
    shapes = ((300, 700), (64,), (), (5, 4))  # the first one is more than is taken at a time
    gradients: list[list[Tensor | None]] = [[torch.randn(shape) for shape in shapes] for _ in range(4)]
    for k, own in enumerate(gradients):
        own[0] = torch.where(torch.rand(shapes[0]) < 0.2 * k, 0.0, torch.randn(shapes[0]))
        own[3] = None if k else own[3]  # reached by one task alone
    gradients[1][1] = gradients[2][2] = None
    gradients[3] = [None, None, None, torch.ones(5, 4)]  # shares one tensor with the first task
    cosine_KK, count_KK = pairwise_cosines(gradients)
    for a, b in product(range(4), repeat=2):
        pairs = [(x, y) for x, y in zip(gradients[a], gradients[b], strict=True) if x is not None and y is not None]
        flat = [torch.cat([pair[i].flatten().double() for pair in pairs] or [torch.zeros(0)]) for i in (0, 1)]
        both = (flat[0] != 0) & (flat[1] != 0)
        of_a, of_b = (values[both].numpy() for values in flat)
        if a != b:  # what a task alone reaches is of no pair
            assert int(count_KK[a, b]) == len(of_a)
            expected = of_a @ of_b / (np.linalg.norm(of_a) * np.linalg.norm(of_b)) if len(of_a) else np.nan
            assert float(cosine_KK[a, b]) == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert torch.isnan(cosine_KK[1, 3])


@pytest.mark.parametrize(("opposite", "expected"), [(False, 1.0), (True, -1.0)])
def test_the_same_labels_agree_and_opposite_ones_conflict(opposite: bool, expected: float) -> None:
    y_B = _labels()
    model = _model(HARD, same_towers=True)
    found = _cosines(model, _batch(torch.stack([y_B, 1 - y_B if opposite else y_B], dim=1)))
    assert [cosine for cosine, _ in found] == pytest.approx([expected] * 2, abs=1e-3)
    assert [count for _, count in found] == [ROWS * WIDTH, (WIDTH + 1) * 8]  # the bottom; each tower has a single task


def test_gradients_are_those_of_each_loss_alone() -> None:
    model, batch = _model(HARD), _batch(torch.stack([_labels(), _labels().flip(0)], dim=1))
    for k, (of_x, *of_parameters) in enumerate(task_gradients(model, [LOSS, LOSS], batch)):
        x_BD = model.inputs(batch).requires_grad_()
        model.zero_grad()
        LOSS(model.score(x_BD)[0][:, k], batch.labels_BK[:, k]).mean().backward()  # there are no tables
        torch.testing.assert_close(of_x, x_BD.grad)
        parameters = [*model.extraction.parameters(), *model.towers.parameters()]
        for found, parameter in zip(of_parameters, parameters, strict=True):
            torch.testing.assert_close(found, parameter.grad)


def test_own_experts_are_not_shared_and_a_sample_outside_of_a_space_is_not_either() -> None:
    inside = torch.ones(ROWS, 2)
    inside[:15, 1] = 0
    batch = _batch(torch.stack([_labels()] * 2, dim=1), inside)
    config = CgcConfig(variant="cgc", expert_hidden=(6,), activation="tanh", tower=LINEAR)
    (_, on_inputs), (_, on_parameters) = _cosines(_model(config), batch)
    assert on_inputs == (ROWS - 15) * WIDTH
    assert on_parameters == (WIDTH + 1) * 6  # one shared expert of three; each gate is of one task
    _, (cosine, count) = _cosines(_model(SingleTaskConfig(variant="single_task", bottom=(6,), tower=LINEAR)), batch)
    assert (np.isnan(cosine), count) == (True, 0)


def test_a_task_without_samples_in_a_batch_has_no_cosine_there() -> None:
    inside = torch.ones(ROWS, 2)
    inside[:, 1] = 0
    found = _cosines(_model(HARD), _batch(torch.ones(ROWS, 2), inside))
    assert np.isnan([cosine for cosine, _ in found]).all()


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_run_keeps_its_tables_and_weights(split: Any, tiny_run: Path) -> None:
    with open_trained_run(load_run_config(tiny_run), tiny_run, "best") as job:
        load_trained_weights(job, tiny_run, "best")
        tables = {name: table.clone() for name, table in whole_tables(job.model).items()}
        dense = [parameter.detach().clone() for parameter in job.unwrapped_model.extraction.parameters()]
        batches = gradient_batches(job, split, 3)
        (found,) = measure_conflicts(job, batches)
        again = measure_conflicts(job, batches)
        after = whole_tables(job.model)
        assert len(tables) == len(after) == 3
        assert all(torch.equal(table, after[name]) for name, table in tables.items())
        assert all(map(torch.equal, dense, job.unwrapped_model.extraction.parameters()))
        assert all(parameter.grad is None for parameter in job.unwrapped_model.extraction.parameters())
    assert found.tasks == ("click", "watch")
    for each in (found.parameters, found.inputs):
        assert len(each.values) == 3
        assert all(-1 <= value <= 1 and abs(value) > 1e-4 for value in each.values)
        assert each.mean == pytest.approx(sum(each.values) / 3)
        assert each.sd is not None
        assert each.reached > 0
    assert again == (found,)
