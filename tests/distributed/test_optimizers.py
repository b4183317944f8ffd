"""Learning-rate schedule, clipping over all ranks, and the tables' optimizer against its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ple_rec.config.run import DenseOptimizerConfig, EmbeddingsConfig, ScheduleConfig, TableOptimizerConfig
from ple_rec.config.schema import SparseFeature
from ple_rec.distributed.optimizers import Optimizers, attach_table_optimizer, schedule_factor
from ple_rec.errors import UserError
from ple_rec.models.embeddings import embedding_collection
from tests.training.small import on_ranks, plan_and_shard, ranks_of, whole_tables


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({}, [1, 1, 1, 1, 1, 1, 1]),
        ({"warmup_steps": 3}, [1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1]),
        ({"decay": "linear"}, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0]),
        ({"warmup_steps": 2, "decay": "linear", "final": 0.2}, [1 / 3, 2 / 3, 1, 0.8, 0.6, 0.4, 0.2]),
        (
            {"warmup_steps": 2, "decay": "cosine", "final": 0.5},
            [1 / 3, 2 / 3, 1, *(0.5 + 0.25 * (1 + math.cos(math.pi * p / 4)) for p in (1, 2, 3)), 0.5],
        ),
        ({"warmup_steps": 7, "decay": "linear"}, [(t + 1) / 8 for t in range(7)]),
    ],
)
def test_schedule(schedule: dict[str, Any], expected: list[float]) -> None:
    config = ScheduleConfig.model_validate(schedule)
    assert [schedule_factor(config, step, 7) for step in range(7)] == pytest.approx(expected)


def test_schedule_of_one_step_and_beyond_the_last() -> None:
    config = ScheduleConfig.model_validate({"decay": "linear", "final": 0.1})
    assert schedule_factor(config, 0, 1) == 1
    assert schedule_factor(config, 100, 7) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"kind": "adam"},
            'table_optimizer.kind: got "adam" on a CPU; FBGEMM\'s CPU kernels support only sgd, adagrad and '
            'rowwise_adagrad. Fix: set table_optimizer.kind = "rowwise_adagrad"',
        ),
        (
            {"kind": "rowwise_adagrad", "weight_decay": 0.1},
            "table_optimizer.weight_decay: got 0.1 with rowwise_adagrad; of FBGEMM's kernels, only adam applies weight "
            "decay; the others would ignore it silently. Fix: set table_optimizer.weight_decay = 0",
        ),
    ],
)
def test_what_the_kernels_lack_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        attach_table_optimizer(nn.Module(), TableOptimizerConfig.model_validate(config), torch.device("cpu"))
    assert str(caught.value) == message


class _Model(nn.Module):
    def __init__(self, embeddings: EmbeddingBagCollection) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.w = nn.Linear(4, 1)

    def forward(self, ids: KeyedJaggedTensor) -> Tensor:
        out: Tensor = self.w(self.embeddings(ids).values())
        return out


def _assembled(
    rank: int, world_size: int, dense: dict[str, Any], tables: dict[str, Any], schedule: dict[str, Any]
) -> tuple[Any, Optimizers]:
    config, table_config = EmbeddingsConfig(dim=4), TableOptimizerConfig.model_validate(tables)
    collection = embedding_collection(config, [SparseFeature(name="f", table="t")], {"t": 6}, torch.device("meta"))
    assert collection is not None
    torch.manual_seed(0)
    model = _Model(collection)
    attach_table_optimizer(model, table_config, torch.device("cpu"))
    sharded, _ = plan_and_shard(model, config, ranks_of(rank, world_size), 2, 0, table_config.kind)
    dense_config = DenseOptimizerConfig.model_validate(dense)
    return sharded, Optimizers(sharded, dense_config, table_config, ScheduleConfig.model_validate(schedule), 10)


def _ids(*rows: int) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(
        keys=["f"], values=torch.tensor(rows), lengths=torch.ones(len(rows), dtype=torch.int64), stride=len(rows)
    )


def _step(model: Any, optimizers: Optimizers, step: int, *rows: int) -> Tensor:
    optimizers.prepare(step)
    model(_ids(*rows)).sum().backward()
    optimizers.average_gradients()
    return optimizers.step()


def _clipped(rank: int, world_size: int) -> tuple[float, Tensor, Tensor, float]:
    """Two ranks with different samples: norm, change of the weights, its expected direction."""
    clip = 0.05
    model, optimizers = _assembled(
        rank, world_size, {"kind": "sgd", "learning_rate": 1.0, "clip_norm": clip}, {"kind": "sgd"}, {}
    )
    before = torch.cat([p.detach().flatten().clone() for p in model.module.w.parameters()])
    table = whole_tables(model)["t"]
    norm = _step(model, optimizers, 0, rank, rank + 2)
    after = torch.cat([p.detach().flatten() for p in model.module.w.parameters()])
    gradient = torch.cat([table[[0, 2, 1, 3]].sum(0), torch.tensor([4.0])]) / 2  # mean over the ranks of 2-row sums
    return float(norm), before - after, gradient, clip


def test_clipping_takes_the_norm_over_all_ranks() -> None:
    results = on_ranks(_clipped, 2)
    for norm, change, gradient, clip in results:
        assert norm == pytest.approx(float(gradient.norm()), rel=1e-6)
        assert norm > 10 * clip
        torch.testing.assert_close(change, gradient * clip / gradient.norm(), rtol=1e-4, atol=1e-6)
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def _two_steps(rank: int, world_size: int) -> dict[str, tuple[list[Tensor], list[Tensor], list[float | None]]]:
    """By kind: the table after each step, the gradient of its row 1 before each step, and the learning rates."""
    results = {}
    for kind in ("sgd", "adagrad", "rowwise_adagrad"):
        model, optimizers = _assembled(
            rank,
            world_size,
            {"kind": "sgd", "learning_rate": 0.1},
            {"kind": kind, "learning_rate": 0.5, "eps": 0.01},
            {"warmup_steps": 3},
        )
        tables, gradients, rates = [whole_tables(model)["t"]], [], []
        for step in range(2):
            gradients.append(3 * model.module.w.weight.detach().flatten().clone())
            _step(model, optimizers, step, 1, 1, 1)
            tables.append(whole_tables(model)["t"])
            rates.append(optimizers.table_learning_rate)
        assert optimizers.learning_rate == pytest.approx(0.1 * 2 / 4)
        results[kind] = tables, gradients, rates
    return results


def test_table_optimizers_follow_their_formulas_and_the_schedule() -> None:
    results = on_ranks(_two_steps, 1)[0]
    for kind, (tables, gradients, rates) in results.items():
        assert rates == pytest.approx([0.5 / 4, 0.5 * 2 / 4])
        state = torch.zeros(4) if kind == "adagrad" else torch.zeros(1)
        for before, after, gradient, rate in zip(tables, tables[1:], gradients, rates, strict=False):
            state = state + (gradient.square() if kind == "adagrad" else gradient.square().mean())
            scale = 1.0 if kind == "sgd" else 1 / (state.sqrt() + 0.01)
            expected = before.clone()
            assert rate is not None
            expected[1] -= rate * gradient * scale
            torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-7)
            assert torch.equal(after[[0, 2, 3, 4, 5]], before[[0, 2, 3, 4, 5]])
