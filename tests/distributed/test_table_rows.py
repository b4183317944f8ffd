"""Blocks of rows over all ranks: every row once, whatever the sharding; norms of whole rows; which rows moved."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ple_rec.config.run import EmbeddingsConfig, TableOptimizerConfig
from ple_rec.config.schema import SparseFeature
from ple_rec.distributed import table_rows
from ple_rec.distributed.optimizers import attach_table_optimizer
from ple_rec.distributed.sharding import local_shards
from ple_rec.distributed.table_rows import TableOrigin, TableRows
from ple_rec.models.embeddings import embedding_collection
from tests.training.small import on_ranks, plan_and_shard, ranks_of, whole_tables

SEED, SCALE = 5, 3.0
ROWS = {"a": 50, "b": 7, "c": 1}
DIMS = {"a": 256, "b": 4, "c": 4}
# (row, column): value. TorchRec splits 256 columns into two shards: one rank has both, of three ranks one has none.
MOVED: dict[str, dict[tuple[int, int], float]] = {
    "a": {(0, 0): 1.0, (13, 255): 0.5, (24, 127): math.nan, (25, 128): -2.0, (49, 0): 0.0, (49, 255): 3.0},
    "b": {},
    "c": {(0, 2): 0.25},
}
CASES: dict[str, dict[str, Any]] = {
    "row_wise": {"sharding": "row_wise"},
    "table_wise": {"sharding": "table_wise"},
    "half": {"sharding": "row_wise", "dtype": "fp16"},
    "column_wise": {"tables": {"a": {"sharding": "column_wise"}}},
    "half column_wise": {"dtype": "fp16", "tables": {"a": {"sharding": "column_wise"}}},
}
Rows = list[tuple[int, list[float], list[bool]]]


class _Model(nn.Module):
    def __init__(self, embeddings: nn.Module) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.w = nn.Linear(sum(DIMS.values()), 1)


def _read(rank: int, world_size: int, values: int) -> dict[str, dict[str, tuple[Rows, Tensor]]]:
    """By case and table: this rank's blocks, and the whole table."""
    table_rows._BLOCK_VALUES = values
    results: dict[str, dict[str, tuple[Rows, Tensor]]] = {}
    for name, changes in CASES.items():
        tables = {"a": {"dim": DIMS["a"]} | changes.get("tables", {}).get("a", {})}
        config = EmbeddingsConfig.model_validate({"dim": 4, "init_scale": SCALE} | changes | {"tables": tables})
        features = [SparseFeature(name=table, table=table) for table in ROWS]
        collection = embedding_collection(config, features, ROWS, torch.device("meta"))
        assert collection is not None
        module = _Model(collection)
        attach_table_optimizer(module, TableOptimizerConfig(), torch.device("cpu"))
        model, _ = plan_and_shard(module, config, ranks_of(rank, world_size), 4, SEED)
        for table, shard_RD, row, column, _ in local_shards(model):
            for (r, c), value in MOVED[table].items():
                if 0 <= r - row < shard_RD.size(0) and 0 <= c - column < shard_RD.size(1):
                    shard_RD[r - row, c - column] = value
        reader = TableRows(model, {t: TableOrigin(t, ROWS[t], DIMS[t], SEED, SCALE) for t in ROWS}, torch.device("cpu"))
        whole = whole_tables(model)
        found = {t: [(first, s.tolist(), m.tolist()) for first, s, m in reader.blocks(t)] for t in ROWS}
        results[name] = {table: (found[table], whole[table]) for table in ROWS}
        widths = torch.tensor([shard_RD.size(1) for t, shard_RD, *_ in local_shards(model) if t == "a"] or [DIMS["a"]])
        dist.all_reduce(widths := widths.min(), op=dist.ReduceOp.MIN)
        assert (int(widths) < DIMS["a"]) == ("column_wise" in name and world_size > 1)
    return results


@pytest.mark.parametrize(("world_size", "values"), [(1, 1 << 17), (2, 600), (3, 1)])
def test_blocks_hold_every_row_once(world_size: int, values: int) -> None:
    results = on_ranks(_read, world_size, values)
    for name in CASES:
        for table, rows in ROWS.items():
            blocks = sorted(block for result in results for block in result[name][table][0])
            starts = [first for first, *_ in blocks]
            assert [first + len(square) for first, square, _ in blocks] == [*starts[1:], rows]
            assert starts[0] == 0
            assert max(len(square) for _, square, _ in blocks) <= max(1, values // DIMS[table])
            assert [r for first, _, moved in blocks for r, yes in enumerate(moved, first) if yes] == sorted(
                {row for row, _ in MOVED[table]}
            )
            found = torch.tensor([value for _, square, _ in blocks for value in square], dtype=torch.float64)
            expected = results[0][name][table][1].double().square().sum(dim=1)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=0, equal_nan=True)
