"""Rows of sharded tables are overwritten, and no others, at any sharding, optimizer and number of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchrec.distributed.types import ShardedTensor

from ple_rec.config.run import EmbeddingsConfig, TableOptimizerConfig
from ple_rec.config.schema import SparseFeature
from ple_rec.distributed import table_overwrite
from ple_rec.distributed.optimizers import attach_table_optimizer
from ple_rec.distributed.table_overwrite import RowSources, copy_rows, reset_rows
from ple_rec.distributed.table_rows import TableOrigin
from ple_rec.models.embeddings import embedding_collection, sequence_collection
from tests.training.small import on_ranks, plan_and_shard, ranks_of, whole_sharded

SEED, SCALE = 5, 3.0
ROWS = {"a": 50, "b": 7, "c": 2}
DIMS = {"a": 256, "b": 4, "c": 4}
ORIGINS = {table: TableOrigin(table, ROWS[table], DIMS[table], SEED, SCALE) for table in ROWS}
CHANGED = {"a": [1, 13, 24, 25, 26, 48], "b": [6]}
SOURCES = {"a": [0, 0, 49, 47, 0, 49], "b": [0]}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "row_wise": ({"sharding": "row_wise"}, {}),
    "table_wise": ({"sharding": "table_wise"}, {}),
    "half": ({"sharding": "row_wise", "dtype": "fp16"}, {}),
    "column_wise": ({"tables": {"a": {"sharding": "column_wise"}}}, {}),
    "column_wise adagrad": ({"tables": {"a": {"sharding": "column_wise"}}}, {"kind": "adagrad"}),
    "adagrad": ({"sharding": "row_wise"}, {"kind": "adagrad"}),
    "sgd": ({"sharding": "row_wise"}, {"kind": "sgd"}),
    "unpooled row_wise": ({"sharding": "row_wise"}, {}),
    "unpooled table_wise adagrad": ({"sharding": "table_wise"}, {"kind": "adagrad"}),
    "unpooled column_wise": ({"tables": {"a": {"sharding": "column_wise"}}}, {}),
}


class _Model(nn.Module):
    def __init__(self, embeddings: nn.Module, sequences: nn.Module | None) -> None:
        super().__init__()
        self.embeddings, self.sequences = embeddings, sequences
        self.w = nn.Linear(sum(DIMS.values()), 1)


class _States(NamedTuple):
    """Tables and the optimizer's tensors, whole and by name."""

    initial: dict[str, Tensor]
    trained: dict[str, Tensor]
    reset: dict[str, Tensor]
    copied: dict[str, Tensor]
    counter: float


def _overwrite(rank: int, world_size: int) -> dict[str, _States]:
    table_overwrite._CHUNK_VALUES = 300
    rows = {table: np.array(values, np.int32) for table, values in CHANGED.items()}
    sources = {table: RowSources(rows[table], np.array(values, np.int32)) for table, values in SOURCES.items()}
    results: dict[str, _States] = {}
    for name, (embeddings, optimizer) in CASES.items():
        tables = {"a": {"dim": DIMS["a"]} | embeddings.get("tables", {}).get("a", {})}
        config = EmbeddingsConfig.model_validate({"dim": 4, "init_scale": SCALE} | embeddings | {"tables": tables})
        features = [SparseFeature(name=table, table=table) for table in ROWS]
        meta, unpooled = torch.device("meta"), {"a"} if name.startswith("unpooled") else set()
        collection = embedding_collection(config, features, ROWS, meta, unpooled)
        assert collection is not None
        module = _Model(collection, sequence_collection(config, features, ROWS, meta, unpooled))
        table_optimizer = TableOptimizerConfig.model_validate(optimizer)
        attach_table_optimizer(module, table_optimizer, torch.device("cpu"))
        model, _ = plan_and_shard(module, config, ranks_of(rank, world_size), 4, SEED, table_optimizer.kind)
        weights, state = model.state_dict(), model.fused_optimizer.state_dict()["state"]
        counter = torch.tensor(3.0)
        for values in state.values():
            values["iteration"] = counter
        initial = _whole(weights, {})
        generator = torch.Generator().manual_seed(rank)
        for tensor in (*weights.values(), *(value for values in state.values() for value in values.values())):
            for piece in tensor.local_shards() if isinstance(tensor, ShardedTensor) else []:
                piece.tensor.copy_(torch.rand(piece.tensor.shape, generator=generator) + 1)
        trained = _whole(weights, state)
        copy_rows(weights, sources, DIMS, torch.device("cpu"))
        copied = _whole(weights, state)
        reset_rows(weights, state, rows, ORIGINS)
        results[name] = _States(initial, trained, _whole(weights, state), copied, float(counter))
    return results


def _whole(weights: Mapping[str, Any], state: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    flat = dict(weights) | {f"{key}:{name}": value for key, values in state.items() for name, value in values.items()}
    return whole_sharded({key: value for key, value in flat.items() if isinstance(value, ShardedTensor)})


@pytest.fixture(scope="module", params=[1, 3])
def ranks(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def states(ranks: int) -> dict[str, _States]:
    return on_ranks(_overwrite, ranks)[0]


def _table(key: str) -> str:
    return key.split(":")[0].split(".")[-2]


@pytest.mark.parametrize("case", CASES)
def test_rows_that_are_reset_have_initial_weights_and_no_state(states: dict[str, _States], case: str) -> None:
    initial, trained, reset, _, counter = states[case]
    kinds = {"sgd": 0, "row_wise": 1, "adagrad": 1}
    assert len(trained) == len(ROWS) * (1 + kinds.get(case, 1))
    for key, values in trained.items():
        changed = CHANGED.get(_table(key), [])
        # The state of row-wise Adagrad is that of all rows, once for each column shard.
        places = [row + ROWS[_table(key)] * i for i in range(len(values) // ROWS[_table(key)]) for row in changed]
        expected = values.clone()
        expected[places] = initial[key][places] if ":" not in key else 0
        assert torch.equal(reset[key], expected), key
    assert counter == 3


@pytest.mark.parametrize("case", CASES)
def test_rows_are_copied_from_any_rank(states: dict[str, _States], case: str) -> None:
    _, trained, _, copied, _ = states[case]
    for key, values in trained.items():
        expected = values.clone()
        if ":" not in key and (table := _table(key)) in CHANGED:
            expected[CHANGED[table]] = values[SOURCES[table]]
        assert torch.equal(copied[key], expected), key


def test_the_cases_have_shards_of_each_kind(states: dict[str, _States], ranks: int) -> None:
    """The state of a column-wise table of row-wise Adagrad is as long as its shards together: two on three ranks."""
    key = "embeddings.embedding_bags.a.weight"
    assert states["column_wise"].trained[f"{key}:a.momentum1"].shape == (min(2, ranks) * ROWS["a"],)
    assert states["row_wise"].trained[f"{key}:a.momentum1"].shape == (ROWS["a"],)
    assert states["unpooled column_wise"].trained["sequences.embeddings.a.weight:a.momentum1"].shape == (
        min(2, ranks) * ROWS["a"],
    )
    assert states["adagrad"].trained[f"{key}:a.momentum1"].shape == (ROWS["a"], DIMS["a"])
