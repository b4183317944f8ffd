"""Where tables go: shardings and kernels that keep one optimizer, the user's wish, tables too large, initial values."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ple_rec.config.model import CgcConfig
from ple_rec.config.run import EmbeddingsConfig, TableOptimizerConfig
from ple_rec.config.schema import SparseFeature
from ple_rec.distributed.collectives import PeerError
from ple_rec.distributed.optimizers import attach_table_optimizer
from ple_rec.errors import UserError
from ple_rec.models.embeddings import embedding_collection, mean_pooled_features
from ple_rec.models.multitask import MultiTaskModel
from tests.models.samples import pooled_by_hand, sparse_batch
from tests.training.small import on_ranks, plan_and_shard, ranks_of, relative, whole_tables

ROWS = {"a": 50, "b": 7, "c": 1}  # 7 and 1 do not divide by 2 and 3; of the last one some ranks hold nothing
FEATURES = [
    SparseFeature(name="fa", table="a"),
    SparseFeature(name="fb", table="b", bag=True),
    SparseFeature(name="fc", table="c"),
]
DENSE = {"w.weight", "w.bias"}


class _Model(nn.Module):
    def __init__(self, embeddings: EmbeddingBagCollection, width: int) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.w = nn.Linear(width, 1)

    def forward(self, ids: KeyedJaggedTensor) -> Tensor:
        out: Tensor = self.w(self.embeddings(ids).values())
        return out


def _config(**changes: Any) -> EmbeddingsConfig:
    return EmbeddingsConfig.model_validate({"dim": 4} | changes)


def _sharded(config: EmbeddingsConfig, rank: int, world_size: int, rows: dict[str, int] = ROWS, seed: int = 0) -> Any:
    collection = embedding_collection(config, FEATURES, rows, torch.device("meta"))
    assert collection is not None
    model = _Model(collection, sum(c.embedding_dim for c in collection.embedding_bag_configs()))
    attach_table_optimizer(model, TableOptimizerConfig(), torch.device("cpu"))
    before = torch.get_rng_state()
    sharded = plan_and_shard(model, config, ranks_of(rank, world_size), 4, seed)
    assert torch.equal(torch.get_rng_state(), before), "rows are hashed; drawing them first takes as long"
    return sharded


CONFIGS: dict[str, dict[str, Any]] = {
    "planner": {},
    "row_wise": {"sharding": "row_wise"},
    "table_wise": {"sharding": "table_wise"},
    "mixed": {"sharding": "row_wise", "tables": {"b": {"sharding": "table_wise"}}},
    "one column_wise": {"tables": {"a": {"sharding": "column_wise", "dim": 8}}},
    "seed": {},
}
PLANS = [name for name in CONFIGS if name != "seed"]


def _plans(rank: int, world_size: int) -> dict[str, Any]:
    """By configuration: plan, kernels as built, tables, and the names of what the dense optimizer would get."""
    results = {}
    for name, changes in CONFIGS.items():
        model, plan = _sharded(_config(**changes), rank, world_size, seed=1 if name == "seed" else 0)
        dense = {key for key, p in model.named_parameters() if not hasattr(p, "_in_backward_optimizers")}
        results[name] = plan.tables, whole_tables(model), dense
    return results


@pytest.fixture(scope="module")
def plans() -> dict[int, dict[str, Any]]:
    return {world_size: on_ranks(_plans, world_size)[0] for world_size in (1, 2, 3)}


def test_no_table_is_dense_or_data_parallel(plans: dict[int, dict[str, Any]]) -> None:
    for results in plans.values():
        for plan, _, dense in results.values():
            assert {table.kernel for table in plan} == {"fused"}
            assert {table.sharding for table in plan} <= {"row_wise", "table_wise", "column_wise"}
            assert dense == DENSE


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_forced_shardings_are_obeyed(world_size: int, plans: dict[int, dict[str, Any]]) -> None:
    found = {name: [table.sharding for table in result[0]] for name, result in plans[world_size].items()}
    last = "row_wise" if world_size == 1 else "table_wise"  # one row: row-wise would leave a rank without
    assert found["row_wise"] == ["row_wise", "row_wise", last]
    assert found["table_wise"] == ["table_wise"] * 3
    assert found["mixed"] == ["row_wise", "table_wise", last]
    assert found["one column_wise"][0] == "column_wise"
    assert "column_wise" not in found["one column_wise"][1:] + found["planner"]


def test_tables_start_the_same_at_every_world_size_and_plan(plans: dict[int, dict[str, Any]]) -> None:
    first = plans[1]["planner"][1]
    assert {table: tuple(values.shape) for table, values in first.items()} == {t: (r, 4) for t, r in ROWS.items()}
    for table, values in first.items():
        bound = ROWS[table] ** -0.5
        assert bound / 4 < values.abs().max() <= bound
    for results in plans.values():
        for name in ("planner", "row_wise", "table_wise", "mixed"):
            for table, values in results[name][1].items():
                assert torch.equal(values, first[table]), (name, table)
        assert not torch.equal(results["seed"][1]["a"], first["a"])
        assert torch.equal(results["one column_wise"][1]["a"], plans[1]["one column_wise"][1]["a"])
    assert not torch.equal(first["a"][:7], first["b"])


# Keys stand in the order fa, fb, fc, fd; pooled columns in that of the tables: fa, fd, fb, fc.
POOLED = [*FEATURES, SparseFeature(name="fd", table="a", bag=True, weights="w")]
COLUMNS = {"fa": "a", "fd": "a", "fb": "b", "fc": "c"}
MEANS = {"fb", "fd"}


def _bags(rank: int) -> tuple[dict[str, list[list[int]]], dict[str, list[list[float]]]]:
    """Ids and weights of one rank: padding at the end, empty bags, weights that sum to 0, a row twice in a bag."""
    bags = {
        "fa": [[1], [49], [rank], []],
        "fb": [[0, 1, 2, 3], [], [6, 6, 5 - rank], []],
        "fc": [[0], [0], [0], []],
        "fd": [[48, 2, 2], [7, 30, rank], [], []],
    }
    return bags, {"fd": [[0.5, 2.0, 0.25 + rank], [1.5, -1.0, -0.5], [], []]}


def _by_hand(tables: dict[str, Tensor], rank: int, *, weighted: bool, mean: bool) -> tuple[Tensor, Tensor]:
    """x_BD of a rank's samples, and the factors of its loss sum(factor_BD x_BD)."""
    bags, weights = _bags(rank)
    blocks = [
        pooled_by_hand(tables[table], bags[f], weights.get(f) if weighted else None, mean=mean and f in MEANS)
        for f, table in COLUMNS.items()
    ]
    x_BD = torch.cat(blocks, dim=1)
    return x_BD, torch.linspace(-1.0, 1.0 + rank, x_BD.numel()).view_as(x_BD)


def _pooled(rank: int, world_size: int) -> dict[str, tuple[float, float]]:
    """Deviations of x and of the tables' gradients from those by hand, for every plan, pooling and kind of bag."""
    results = {}
    rows = ROWS | {"c": 2}  # FBGEMM's CPU backward reads beyond its arrays where the last table of a rank has no row
    for name, pooling, weighted in itertools.product(PLANS, ("sum", "mean"), (False, True)):
        config = _config(pooling=pooling, **CONFIGS[name])
        features = POOLED if weighted else [f.model_copy(update={"weights": None}) for f in POOLED]
        collection = embedding_collection(config, features, rows, torch.device("meta"))
        network = CgcConfig(variant="cgc", expert_hidden=(2,))
        model = MultiTaskModel(network, ("k",), collection, [], mean_features=mean_pooled_features(config, features))
        attach_table_optimizer(model, TableOptimizerConfig(kind="sgd", learning_rate=1.0), torch.device("cpu"))
        sharded, _ = plan_and_shard(model, config, ranks_of(rank, world_size), 4, 0, "sgd")
        tables = {table: values.requires_grad_() for table, values in whole_tables(sharded).items()}
        by_hand = [_by_hand(tables, r, weighted=weighted, mean=pooling == "mean") for r in range(world_size)]
        loss = torch.stack([(factor_BD * x_BD).sum() for x_BD, factor_BD in by_hand]).mean()  # over the ranks
        gradients = dict(zip(tables, torch.autograd.grad(loss, list(tables.values())), strict=True))
        bags, weights = _bags(rank)
        x_BD = model.inputs(sparse_batch(bags, weights if weighted else None))
        expected_BD, factor_BD = by_hand[rank]
        (factor_BD * x_BD).sum().backward()  # SGD at learning rate 1: the change of a table is its gradient
        after = whole_tables(sharded)
        results[f"{name} {pooling} {'weighted' if weighted else 'plain'}"] = (
            relative(x_BD.detach(), expected_BD.detach()),
            max(relative(tables[table].detach() - after[table], gradients[table]) for table in rows),
        )
    return results


@pytest.mark.parametrize("world_size", [1, 2])
def test_pooled_rows_and_their_gradients_are_those_by_hand(world_size: int) -> None:
    for deviations in on_ranks(_pooled, world_size):
        assert len(deviations) == len(PLANS) * 4
        assert {name: errors for name, errors in deviations.items() if max(errors) > 1e-5} == {}


def _refusal(rank: int, world_size: int) -> str:
    with pytest.raises((UserError, PeerError)) as caught:
        _sharded(_config(), rank, world_size, ROWS | {"a": 10**13})
    return f"{type(caught.value).__name__}: {caught.value}"


def test_what_cannot_be_placed_is_refused_on_every_rank() -> None:
    first, second = on_ranks(_refusal, 2)
    assert re.match(
        r"DoesNotFitError: embeddings.dim: table a takes 93,1[0-9,.]+ GiB of host memory on each rank, of [0-9.]+ GiB "
        r"allowed: [0-9,.]+ GiB too much \(row_wise, fused, its smallest layout\); weights, optimizer state and batch",
        first,
    )
    assert second == "PeerError: rank 0 failed with exit code 2"
