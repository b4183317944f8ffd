"""Tables whose rows are returned one by one: rows, gradients and updates by hand, on every plan and number of ranks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from ple_rec.config.plan_table import TableOptimizer
from ple_rec.config.run import EmbeddingsConfig, TableOptimizerConfig
from ple_rec.config.schema import SparseFeature
from ple_rec.distributed.optimizers import attach_table_optimizer
from ple_rec.distributed.sparse_prefetch import CudaStreams, Exchange, sharded_collections
from ple_rec.models.embeddings import embedding_collection
from tests.training.small import on_ranks, plan_and_shard, ranks_of, relative, whole_state_of, whole_tables

CPU = torch.device("cpu")
DIM = 8
ROWS = {"item": 50, "age": 7}
COLUMNS = {"item": ["target", "history_item"], "age": ["history_age"]}
BAGS = [SparseFeature(name="user", table="user")]
# By column: the ids of each sample of the global batch. The last samples, which a rank of its own holds on two and on
# three ranks, have no history.
IDS = {
    "target": [[1], [49], [7], [1], [1], []],
    "user": [[0], [3], [2], [2], [1], [4]],
    "history_item": [[1, 2, 2, 48], [], [7], [5, 1], [], []],
    "history_age": [[0, 1, 2, 6], [], [6], [3, 3], [], []],
}
SPLITS = {1: [6], 2: [4, 2], 3: [3, 1, 2]}
SIZE = 6  # of each rank's batch, with padding
SHARDINGS: dict[str, dict[str, Any]] = {
    "planner": {},
    "row_wise": {"sharding": "row_wise"},
    "table_wise": {"sharding": "table_wise"},
    "column_wise": {"sharding": "column_wise"},
    "row_wise and table_wise": {"sharding": "row_wise", "tables": {"age": {"sharding": "table_wise"}}},
    "column_wise and row_wise": {"sharding": "row_wise", "tables": {"item": {"sharding": "column_wise"}}},
}
OPTIMIZERS: tuple[TableOptimizer, ...] = ("sgd", "adagrad", "rowwise_adagrad")
RATE, EPS, STEPS = 0.25, 1e-8, 2


class _Model(nn.Module):
    """A model that reads single rows of two tables, and the pooled rows of another one."""

    def __init__(self, embeddings: EmbeddingBagCollection, sequences: EmbeddingCollection) -> None:
        super().__init__()
        self.embeddings, self.sequences = embeddings, sequences
        self.w = nn.Linear(1, 1)  # a model has dense parameters, too

    def forward(self, ids: KeyedJaggedTensor) -> tuple[dict[str, JaggedTensor], Tensor]:
        rows, pooled = self.sequences(ids), self.embeddings(ids).values()
        return {name: rows[name] for columns in COLUMNS.values() for name in columns}, pooled


def _sharded(
    changes: dict[str, Any], optimizer: TableOptimizer, rank: int, world_size: int
) -> tuple[DistributedModelParallel, Any]:
    config = EmbeddingsConfig.model_validate({"dim": DIM} | changes)
    meta = torch.device("meta")
    embeddings = embedding_collection(config.model_copy(update={"tables": {}}), BAGS, {"user": 6}, meta)
    assert embeddings is not None
    tables = [
        EmbeddingConfig(name=name, num_embeddings=rows, embedding_dim=DIM, feature_names=COLUMNS[name])
        for name, rows in ROWS.items()
    ]
    model = _Model(embeddings, EmbeddingCollection(tables=tables, device=meta))
    attach_table_optimizer(model, TableOptimizerConfig(kind=optimizer, learning_rate=RATE, eps=EPS), CPU)
    return plan_and_shard(model, config, ranks_of(rank, world_size), SIZE, 0, optimizer)


def _batch(rank: int, world_size: int) -> KeyedJaggedTensor:
    start = sum(SPLITS[world_size][:rank])
    own = {name: samples[start : start + SPLITS[world_size][rank]] for name, samples in IDS.items()}
    bags = [bag for samples in own.values() for bag in (samples + [[]] * SIZE)[:SIZE]]
    return KeyedJaggedTensor(
        keys=list(own),
        values=torch.tensor([row for bag in bags for row in bag], dtype=torch.int32),
        lengths=torch.tensor([len(bag) for bag in bags], dtype=torch.int32),
        stride=SIZE,
    )


def _factors(name: str, samples: Sequence[int], step: int) -> Tensor:
    """Factor of each value of the rows of some samples; the loss of a step is the sum of their products."""
    generator = torch.Generator().manual_seed(step)
    whole = [torch.rand(len(ids), DIM, generator=generator) - 0.5 + len(name) / 20 for ids in IDS[name]]
    return torch.cat([whole[i] for i in samples])


def _step(model: DistributedModelParallel, rank: int, world_size: int, step: int, *, ahead: bool = False) -> float:
    """Train a step, and return the deviation of the rows from those of the tables."""
    start = sum(SPLITS[world_size][:rank])
    samples = range(start, start + SPLITS[world_size][rank])
    tables, ids = whole_tables(model), _batch(rank, world_size)
    if ahead:
        collections = sharded_collections(model)
        assert len(collections) == 2
        exchange = Exchange(collections, ids, CudaStreams(CPU))
        exchange.send()
        exchange.prefetch()
        with exchange.replaced_forward():
            rows, pooled = model(ids)
    else:
        rows, pooled = model(ids)
    loss, deviation = pooled.sum() * 0, 0.0
    for table, columns in COLUMNS.items():
        for name in columns:
            numbers = [row for i in samples for row in IDS[name][i]]
            assert rows[name].lengths().tolist()[: len(samples)] == [len(IDS[name][i]) for i in samples]
            assert rows[name].values().shape == (len(numbers), DIM)
            if numbers:
                deviation = max(deviation, relative(rows[name].values().detach(), tables[table][numbers]))
            # TorchRec averages the gradients of tables over the ranks.
            loss = loss + world_size * (_factors(name, samples, step) * rows[name].values()).sum()
    loss.backward()
    return deviation


def _updated(
    tables: dict[str, Tensor], state: dict[str, Tensor], shards: dict[str, int], kind: TableOptimizer, step: int
) -> None:
    """Update tables and the states of their optimizer by hand, as of the whole batch of a step.

    Args:
        tables: Whole tables.
        state: Sums of squared gradients of each table.
        shards: Number of column shards of each table.
        kind: Optimizer.
        step: Number of the step.
    """
    for table, columns in COLUMNS.items():
        gradient = torch.zeros_like(tables[table])
        for name in columns:
            rows = torch.tensor([row for ids in IDS[name] for row in ids])
            gradient.index_add_(0, rows, _factors(name, range(len(IDS[name])), step))
        if kind == "sgd":
            tables[table] -= RATE * gradient
            continue
        square = gradient**2
        if kind == "rowwise_adagrad":
            each = square.unflatten(1, (shards[table], -1))
            square = each.mean(2, keepdim=True).expand_as(each).flatten(1)
        state[table] += square
        tables[table] -= RATE * gradient / (state[table].sqrt() + EPS)


def _deviations(rank: int, world_size: int, ahead: bool) -> dict[str, tuple[float, float]]:
    """For each sharding and optimizer: deviations of rows, and of tables after some steps."""
    results = {}
    for name, kind in itertools.product(SHARDINGS, OPTIMIZERS):
        model, plan = _sharded(SHARDINGS[name], kind, rank, world_size)
        expected = {table: values for table, values in whole_tables(model).items() if table in ROWS}
        state = {table: torch.zeros_like(values) for table, values in expected.items()}
        cut = {t.table: len(t.ranks) if t.sharding == "column_wise" else 1 for t in plan.tables}
        deviation = 0.0
        for step in range(STEPS):
            deviation = max(deviation, _step(model, rank, world_size, step, ahead=ahead))
            _updated(expected, state, cut, kind, step)
        after = whole_tables(model)
        results[f"{name}, {kind}"] = (deviation, max(relative(after[table], expected[table]) for table in ROWS))
    return results


@pytest.mark.parametrize("world_size", SPLITS)
def test_rows_and_updates_are_those_by_hand(world_size: int) -> None:
    for deviations in on_ranks(_deviations, world_size, world_size == 2):
        assert len(deviations) == len(SHARDINGS) * len(OPTIMIZERS)
        assert {name: errors for name, errors in deviations.items() if max(errors) > 1e-5} == {}


def _initial(rank: int, world_size: int) -> dict[str, Any]:
    """By sharding: the plan, the tables as they begin, and the parameters that no kernel of tables updates."""
    results: dict[str, Any] = {}
    for name, changes in SHARDINGS.items():
        model, plan = _sharded(changes, "rowwise_adagrad", rank, world_size)
        dense = {key for key, p in model.named_parameters() if not hasattr(p, "_in_backward_optimizers")}
        results[name] = plan.tables, whole_tables(model), dense, sorted(whole_state_of(model))
    features = [SparseFeature(name=name, table=table) for table, names in COLUMNS.items() for name in names]
    collection = embedding_collection(EmbeddingsConfig(dim=DIM), features, ROWS, torch.device("meta"))
    assert collection is not None
    module = nn.ModuleDict({"embeddings": collection, "w": nn.Linear(1, 1)})
    attach_table_optimizer(module, TableOptimizerConfig(), CPU)
    sharded, _ = plan_and_shard(module, EmbeddingsConfig(dim=DIM), ranks_of(rank, world_size), SIZE, 0)
    results["bags"] = whole_tables(sharded)
    return results


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_tables_begin_as_in_a_collection_of_bags(world_size: int) -> None:
    results = on_ranks(_initial, world_size)[0]
    bags = results.pop("bags")
    keys = {"embeddings.embedding_bags.user.weight", *(f"sequences.embeddings.{name}.weight" for name in ROWS)}
    for name, (plan, tables, dense, state) in results.items():
        assert {table.table: table.unpooled for table in plan} == {"item": True, "age": True, "user": False}
        assert {table.kernel for table in plan} == {"fused"}
        assert dense == {"w.weight", "w.bias"}
        assert set(state) == keys
        for table in ROWS:
            assert torch.equal(tables[table], bags[table]), (name, table)
