"""Gradients of one global batch are the same at 1, 2 and 3 ranks, however its samples are spread over them.

SGD with learning rate 1 makes the change of a weight its gradient, so that a wrong factor (W or 1 / W) shows; Adam and
Adagrad would hide it. The dense part runs in fp64. Table rows are multiples of 1/256, so that pooled sums are exact.

What every rank has alike, the penalty of sluice and the log-variances' own term, must not be counted once per rank.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from ple_rec.config.base import Split
from ple_rec.config.model import SluiceConfig, TaskExpertLevelConfig, TowerConfig
from ple_rec.config.run import RunConfig
from ple_rec.data.batch import Batch
from ple_rec.data.collate import RowSlice, collate
from ple_rec.data.dataset import read_row_group
from ple_rec.distributed.sharding import local_shards
from ple_rec.models.build import build_model
from ple_rec.models.embeddings import embedding_collection
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.training import model as model_module
from ple_rec.training.context import TrainContext, build_context
from ple_rec.training.non_finite_guard import NonFiniteGuard
from ple_rec.training.step import train_step
from tests.datasets import set_column
from tests.training.small import on_ranks, ranks_of, relative, small_config, whole_tables, write_small

ROWS = 40  # of the global batch: the first row group of the training split
SPLITS = {1: (40,), 2: (33, 7), 3: (3, 30, 7)}  # rows of each rank; the last one holds no sample of watch
TASK_WEIGHTS = (1024.0, 512.0)  # so large that a row's change is not lost in the rounding of the row
LAMBDA = 50.0  # so large that the penalty's gradient counts beside those of the tasks
S_K = (0.4, -0.9)  # log-variances
CASES = {"ple, schedule": "row_wise", "ple, schedule, table-wise": "table_wise", "sluice, uncertainty": "row_wise"}
Gradients = dict[str, Tensor]


def _none_of_watch_at_the_end(split: Split, table: pa.Table) -> pa.Table:
    row_N = np.arange(table.num_rows)
    return set_column(table, "watched", table["watched"].to_numpy() & ~((row_N >= ROWS - 7) & (row_N < ROWS)))


def _model_in_fp64(*args: Any, **kwargs: Any) -> MultiTaskModel:
    model = build_model(*args, **kwargs)
    model.extraction.double()
    model.towers.double()
    model.weighting.double()
    for s_K in model.weighting.parameters():
        s_K.data.copy_(torch.tensor(S_K))
    return model


def _on_a_grid(model: nn.Module) -> None:
    with torch.no_grad():
        for _, shard_RD, *_ in local_shards(model):
            shard_RD.copy_((shard_RD * 256).round() / 256)


def _batch(job: TrainContext, start: int, stop: int) -> Batch:
    """Rows [start, stop) of the global batch, padded to the size that every rank's batch has."""
    columns = read_row_group(job.loader.groups[0], job.selection).arrange()
    return collate([RowSlice(columns, start, stop)], job.selection, ROWS)


def _config(data: Path, case: str) -> RunConfig:
    sgd = {"kind": "sgd", "learning_rate": 1.0}
    embeddings = {"dim": 4, "sharding": CASES[case]}
    config = small_config(data, {"dense_optimizer": sgd, "table_optimizer": sgd, "embeddings": embeddings})
    if "sluice" not in case:
        return config
    level = TaskExpertLevelConfig(expert_hidden=(6,))
    model = SluiceConfig(
        variant="sluice", levels=(level, level), subspaces=3, orthogonality=LAMBDA, tower=TowerConfig(hidden=(4,))
    )
    weighted = config.train.model_copy(update={"loss_weighting": "uncertainty"})
    return config.model_copy(update={"model": model, "train": weighted})


def _gradients(rank: int, world_size: int, data: Path) -> dict[str, tuple[Gradients, list[float]]]:
    start = sum(SPLITS[world_size][:rank])
    results = {}
    for case in CASES:
        with mock.patch.object(model_module, "build_model", _model_in_fp64):
            job = build_context(_config(data, case), ranks_of(rank, world_size))
        _on_a_grid(job.model)
        before = whole_tables(job.model) | {
            k: v.clone() for k, v in job.unwrapped_model.named_parameters() if "embedding" not in k
        }
        guard = NonFiniteGuard([task.name for task in job.tasks], job.ranks.device)
        batch = _batch(job, start, start + SPLITS[world_size][rank])
        _, _, counts_K = train_step(job, guard, batch, 0, TASK_WEIGHTS)
        guard.synchronize()
        after = whole_tables(job.model) | dict(job.unwrapped_model.named_parameters())
        results[case] = {key: (before[key] - after[key]).detach() for key in before}, counts_K.tolist()
    return results


def _penalty(model: MultiTaskModel) -> Tensor:
    """lambda sum over levels, experts and pairs a < b of subspaces of ||W_a^T W_b||_F^2; 0 but for sluice."""
    total = torch.zeros((), dtype=torch.float64)
    if model.extraction.level_mixing is None:
        return total
    for level in model.extraction.levels:
        for weight_HI in level.experts.first_weights:  # type: ignore[union-attr]
            for expert_HI in weight_HI.split(6):
                for a, b in itertools.combinations(expert_HI.split(2), 2):
                    total = total + (a @ b.T).square().sum()
    return LAMBDA * total


def _all_expected(rank: int, world_size: int, data: Path) -> dict[str, Gradients]:
    return {case: _expected(_config(data, case)) for case in CASES if "table-wise" not in case}


def _expected(config: RunConfig) -> Gradients:
    """By autograd of the formula, sample by sample, on tables that are not sharded."""
    with mock.patch.object(model_module, "build_model", _model_in_fp64):
        job = build_context(config, ranks_of(0, 1))
    _on_a_grid(job.model)
    plain = embedding_collection(config.embeddings, job.selection.sparse, job.selection.table_rows, torch.device("cpu"))
    assert plain is not None
    for table, weight in whole_tables(job.model).items():
        plain.embedding_bags[table].weight.data.copy_(weight)
    model = job.unwrapped_model
    model.embeddings = plain
    batch = _batch(job, 0, ROWS)
    logits_BK, _ = model(batch)
    loss = _penalty(model)
    s_K = next(model.weighting.parameters(), None)
    for k, task_loss in enumerate(job.losses):
        inside = [i for i in range(ROWS) if batch.in_space_BK[i, k]]
        factor = 1.0 if s_K is None else (1.0, 0.5)[k] * torch.exp(-s_K[k])  # cross-entropy, mse
        for i in inside:
            value = task_loss(logits_BK[i, k], batch.labels_BK[i, k].double())
            loss = loss + TASK_WEIGHTS[k] / len(inside) * factor * value
        loss = loss + (0 if s_K is None else TASK_WEIGHTS[k] * s_K[k] / 2)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    return {k.split(".")[-2] if "embedding" in k else k: v for k, v in gradients.items() if v is not None}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(
        tmp_path_factory.mktemp("gradients") / "data", sample_weight=False, edit=_none_of_watch_at_the_end
    )


@pytest.fixture(scope="module")
def expected(data: Path) -> dict[str, Gradients]:
    found = on_ranks(_all_expected, 1, data)[0]
    return found | {"ple, schedule, table-wise": found["ple, schedule"]}


@pytest.mark.parametrize("world_size", SPLITS)
def test_gradients_are_those_of_one_batch(world_size: int, data: Path, expected: dict[str, Gradients]) -> None:
    results = on_ranks(_gradients, world_size, data)
    counts = [result["ple, schedule"][1] for result in results]
    assert len({tuple(count) for count in counts}) == world_size, "the ranks must hold unequal numbers of samples"
    assert world_size == 1 or counts[-1] == [7.0, 0.0]
    assert results[0].keys() == expected.keys()
    for case, (gradients, _) in results[0].items():
        assert gradients.keys() == expected[case].keys()
        for name, gradient in gradients.items():
            assert expected[case][name].abs().max() > 0
            tolerance = 1e-12 if gradient.dtype == torch.float64 else 1e-6
            assert relative(gradient, expected[case][name]) < tolerance, f"{case}: {name}"
