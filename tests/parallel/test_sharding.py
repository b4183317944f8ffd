"""Where tables go: shardings and kernels that keep one optimizer, the user's wish, tables too large, initial values."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ple_rec.config.run import EmbeddingsConfig, TableOptimizerConfig
from ple_rec.config.schema import SparseFeature
from ple_rec.errors import UserError
from ple_rec.models.embeddings import embedding_collection
from ple_rec.parallel.agree import PeerError
from ple_rec.parallel.optimizers import attach_table_optimizer
from ple_rec.parallel.sharding import TableSharder, describe_plan, shard
from tests.train.small import on_ranks, ranks_of, whole_tables

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
    return shard(model, config, ranks_of(rank, world_size), 4, seed)


CONFIGS: dict[str, dict[str, Any]] = {
    "planner": {},
    "row_wise": {"sharding": "row_wise"},
    "table_wise": {"sharding": "table_wise"},
    "mixed": {"sharding": "row_wise", "tables": {"b": {"sharding": "table_wise"}}},
    "one column_wise": {"tables": {"a": {"sharding": "column_wise", "dim": 8}}},
    "seed": {},
}


def _plans(rank: int, world_size: int) -> dict[str, Any]:
    """By configuration: plan, kernels as built, tables, and the names of what the dense optimizer would get."""
    results = {}
    for name, changes in CONFIGS.items():
        model = _sharded(_config(**changes), rank, world_size, seed=1 if name == "seed" else 0)
        dims = {table: 8 if "column" in name and table == "a" else 4 for table in ROWS}
        plan = describe_plan(model, {table: (rows, dims[table], 4) for table, rows in ROWS.items()})
        dense = {key for key, p in model.named_parameters() if not hasattr(p, "_in_backward_optimizers")}
        results[name] = plan, whole_tables(model), dense
    return results


@pytest.fixture(scope="module")
def plans() -> dict[int, dict[str, Any]]:
    return {world_size: on_ranks(_plans, world_size)[0] for world_size in (1, 2, 3)}


def test_no_table_is_dense_or_data_parallel(plans: dict[int, dict[str, Any]]) -> None:
    for results in plans.values():
        for plan, _, dense in results.values():
            assert {table["kernel"] for table in plan} == {"fused"}
            assert {table["sharding"] for table in plan} <= {"row_wise", "table_wise", "column_wise"}
            assert dense == DENSE


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_forced_shardings_are_obeyed(world_size: int, plans: dict[int, dict[str, Any]]) -> None:
    found = {name: [table["sharding"] for table in result[0]] for name, result in plans[world_size].items()}
    assert found["row_wise"] == ["row_wise"] * 3
    assert found["table_wise"] == ["table_wise"] * 3
    assert found["mixed"] == ["row_wise", "table_wise", "row_wise"]
    assert found["one column_wise"][0] == "column_wise"
    assert "column_wise" not in found["one column_wise"][1:] + found["planner"]


def test_the_plan_file_says_where_every_table_is(plans: dict[int, dict[str, Any]]) -> None:
    (owner,) = plans[2]["mixed"][0][1]["ranks"]
    assert owner in (0, 1)
    common = {"dim": 4, "kernel": "fused"}
    rows = {"sharding": "row_wise", "ranks": [0, 1]}
    assert plans[2]["mixed"][0] == [
        {"table": "a", "rows": 50, "bytes": 800} | common | rows,
        {"table": "b", "rows": 7, "bytes": 112, "sharding": "table_wise", "ranks": [owner]} | common,
        {"table": "c", "rows": 1, "bytes": 16} | common | rows,
    ]


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


def _pooled(rank: int, world_size: int) -> dict[str, float]:
    """Deviation of the pooled rows from plain torch."""
    ids = KeyedJaggedTensor(
        keys=["fa", "fb", "fc"],
        values=torch.tensor([1, 49, rank, 0, 1, 2, 3, 6, 6, 5, 0, 0, 0]),
        lengths=torch.tensor([1, 1, 1, 4, 0, 3, 1, 1, 1]),
        stride=3,
    )
    results = {}
    for name, changes in CONFIGS.items():
        for pooling in ("sum", "mean"):
            config = _config(pooling=pooling, **changes)
            if pooling == "mean" and name in ("planner", "mixed", "one column_wise", "seed"):
                continue
            model = _sharded(config, rank, world_size)
            plain = embedding_collection(config, FEATURES, ROWS, torch.device("cpu"))
            assert plain is not None
            for table, values in whole_tables(model).items():
                plain.embedding_bags[table].weight.data.copy_(values)
            found, expected = model.module.embeddings(ids), plain(ids)
            results[f"{name} {pooling}"] = max(
                float((found[key] - expected[key]).abs().max()) for key in ("fa", "fb", "fc")
            )
    return results


@pytest.mark.parametrize("world_size", [1, 2])
def test_pooled_rows_are_those_of_plain_torch(world_size: int) -> None:
    for deviations in on_ranks(_pooled, world_size):
        assert len(deviations) == 8
        assert {name: error for name, error in deviations.items() if error > 1e-6} == {}


def _refusals(rank: int, world_size: int) -> dict[str, str]:
    cases: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
        "too large": ({}, ROWS | {"a": 10**13}),
        "mean": ({"pooling": "mean", "sharding": "row_wise", "tables": {"b": {"sharding": "table_wise"}}}, ROWS),
    }
    said = {}
    for name, (changes, rows) in cases.items():
        with pytest.raises((UserError, PeerError)) as caught:
            _sharded(_config(**changes), rank, world_size, rows)
        said[name] = f"{type(caught.value).__name__}: {caught.value}"
    return said


def test_what_cannot_be_placed_is_refused_on_every_rank() -> None:
    first, second = on_ranks(_refusals, 2)
    assert re.fullmatch(
        r"UserError: embeddings: no sharding of 3 tables fits 2 rank\(s\): .*; weights, optimizer state and "
        r"activations of every shard must fit its rank's memory\. Fix: use more ranks, a smaller embeddings\.dim or "
        r"batch, or relax embeddings\.sharding",
        first["too large"],
    )
    assert second["too large"] == "PeerError: rank 0 failed with exit code 2"
    assert first["mean"] == (
        "UserError: embeddings.pooling: got mean with tables sharded row_wise (a), table_wise (b), row_wise (c); "
        "beside tables sharded by rows TorchRec divides twice by the length of a bag. Fix: set embeddings.sharding = "
        '"row_wise" or "table_wise" for every table, or use pooling = "sum"'
    )
    assert second["mean"] == first["mean"]


def test_a_gpu_may_use_rows_over_the_ranks_of_a_host_too() -> None:
    assert TableSharder(set()).sharding_types("cpu") == ["table_wise", "row_wise"]
    assert TableSharder(set()).sharding_types("cuda") == ["table_wise", "row_wise", "table_row_wise"]
    assert TableSharder({"column_wise", "row_wise"}).sharding_types("cpu") == ["table_wise", "row_wise", "column_wise"]
