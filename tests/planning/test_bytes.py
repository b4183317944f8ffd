"""Bytes of every rank: by the plan, added up by hand for a small table, and as real ranks allocate them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ple_rec.config.plan import PlanFile
from ple_rec.config.plan_table import TableOptimizer, TablePlan
from ple_rec.config.run import EmbeddingsConfig, RunConfig
from ple_rec.distributed.sharding import local_shards
from ple_rec.planning.plan_input import describe_dataset, plan_run
from ple_rec.training.context import TrainContext, build_context
from tests.planning.samples import cluster, plan_of
from tests.training.small import on_ranks, ranks_of, small_config, write_small

# A table of 1,000 rows x 16, of one feature, 256 samples a rank, on two ranks: HBM and host memory of each rank, added
# up by hand from the weights, the optimizer's state, the ids (8 bytes) and the pooled rows (4 bytes a value).
# fp32 weights are 64 bytes a row, fp16 ones 32; row-wise Adagrad has 4 bytes a row, Adagrad 64, Adam 128, SGD none.
IDS, POOLED = 256 * 8, 256 * 2 * 16 * 4  # 2,048 of the own samples, 32,768 of the samples of both ranks
BY_HAND: dict[str, tuple[Any, dict[str, Any], TableOptimizer, list[tuple[int, int]]]] = {
    "a whole table on one rank": (
        cluster("h100", 1, 2),
        {"sharding": "table_wise"},
        "rowwise_adagrad",
        [(64_000 + 4_000 + 2 * IDS + POOLED, 0), (0, 0)],
    ),
    "half the rows": (
        cluster("a100-80", 2, 1),
        {"sharding": "row_wise", "dtype": "fp16"},
        "rowwise_adagrad",
        [(16_000 + 2_000 + IDS + POOLED, 0)] * 2,
    ),
    "half the columns": (
        cluster("h200", 1, 2),
        {"sharding": "column_wise"},
        "adam",
        [(32_000 + 64_000 + 2 * IDS + POOLED // 2, 0)] * 2,
    ),
    "weights and their state in the host's memory": (
        cluster("h100", 1, 2),
        {"sharding": "row_wise", "kernel": "fused_uvm"},
        "adagrad",
        [(IDS + POOLED, 32_000 + 32_000)] * 2,
    ),
    # The cache is a tenth of 32,000, and 4 + 16 / 10 bytes a row of bookkeeping; a state of one value a row is in HBM.
    "a cache": (
        cluster("h100", 1, 2),
        {"sharding": "row_wise", "kernel": "fused_uvm_caching", "cache_load_factor": 0.1},
        "rowwise_adagrad",
        [(3_200 + 2_800 + 2_000 + IDS + POOLED, 32_000)] * 2,
    ),
    "CPUs": (
        cluster("cpu", 2, 1),
        {"sharding": "row_wise"},
        "sgd",
        [(0, 32_000 + IDS + POOLED)] * 2,
    ),
    # On the two ranks of one of two hosts, with the ids of one rank of each host, and the pooled rows of four ranks.
    "rows over one host": (
        cluster("h100", 2, 2),
        {"sharding": "table_row_wise", "tables": {"t": {"hosts": [0]}}},
        "rowwise_adagrad",
        [(32_000 + 2_000 + 2 * IDS + 2 * POOLED, 0)] * 2 + [(0, 0)] * 2,
    ),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_bytes_of_a_rank_are_those_by_hand(case: str) -> None:
    on, changes, optimizer, expected = BY_HAND[case]
    embeddings = EmbeddingsConfig.model_validate_json(json.dumps({"dim": 16} | changes))
    plan = plan_of({"t": 1_000}, on, embeddings, optimizer)
    assert sorted([(memory.hbm, memory.host) for memory in plan.memory], reverse=True) == expected


def test_the_user_table_of_the_paper_on_one_rank() -> None:
    plan = plan_of({"user": 46_926_000}, cluster("cpu", 1, 1))
    (memory,) = plan.memory
    assert (memory.host_weights, memory.host_optimizer) == (3_003_264_000, 187_704_000)
    assert memory.host_batch == 256 * 8 + 256 * 16 * 4
    assert memory.hbm == 0


CASES: dict[str, dict[str, Any]] = {
    "planner": {},
    "row_wise": {"sharding": "row_wise"},
    "half": {"sharding": "row_wise", "dtype": "fp16"},
    "column_wise": {"tables": {"item": {"sharding": "column_wise", "dim": 16}}},
}


def _allocated(job: TrainContext) -> tuple[int, int]:
    """Bytes of weights and of optimizer state that this rank holds."""
    weights = sum(values.numel() * values.element_size() for _, values, *_ in local_shards(job.model))
    state = 0
    for tensors in job.model.fused_optimizer.state_dict()["state"].values():
        for value in tensors.values():
            pieces = [s.tensor for s in value.local_shards()] if hasattr(value, "local_shards") else [value]
            state += sum(p.numel() * p.element_size() for p in pieces if isinstance(p, torch.Tensor))
    return weights, state


def _built(rank: int, world_size: int, configs: dict[str, RunConfig]) -> dict[str, Any]:
    """By case: what the wrapper built on this rank, its plan, and the bytes it allocated."""
    found = {}
    for name, config in configs.items():
        job = build_context(config, ranks_of(rank, world_size))
        shards = sorted((t, row, column, *values.shape) for t, values, row, column, _ in local_shards(job.model))
        specs = {
            table: (p.sharding_type, p.compute_kernel, list(p.ranks or []))
            for module in job.model.plan.plan.values()
            for table, p in module.items()
        }
        found[name] = shards, specs, _allocated(job), job.plan.tables
    return found


def _shards_of(plan: PlanFile, rank: int) -> list[tuple[str, int, int, int, int]]:
    here = ((t.table, s) for t in plan.tables for s in t.shards(plan.cluster) if s.rank == rank)
    return sorted((table, s.row, s.column, s.rows, s.columns) for table, s in here)


def _spec(plan: PlanFile, table: TablePlan) -> tuple[str, str, list[int]]:
    return table.sharding, table.kernel, list(plan.ranks_of(table))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_plan_made_offline_is_what_real_ranks_build_and_allocate(world_size: int, tmp_path: Path) -> None:
    data = write_small(tmp_path / "data")
    configs = {name: small_config(data, {"embeddings": {"dim": 8} | changes}) for name, changes in CASES.items()}
    every = on_ranks(_built, world_size, configs)
    for name, config in configs.items():
        plan = plan_run(config, describe_dataset(config), cluster("cpu", 1, world_size))
        for rank, results in enumerate(every):
            shards, specs, (weights, state), online = results[name]
            assert online == plan.tables
            assert shards == _shards_of(plan, rank)
            assert specs == {table.table: _spec(plan, table) for table in plan.tables}
            memory = plan.memory[rank]
            assert (weights, state) == (memory.host_weights, memory.host_optimizer)


def test_a_column_wise_table_has_a_shard_for_every_rank_that_it_can_have() -> None:
    embeddings = EmbeddingsConfig(dim=16, sharding="column_wise")
    for ranks, columns in ((3, [(0, 8), (8, 8)]), (8, [(0, 4), (4, 4), (8, 4), (12, 4)])):
        plan = plan_of({"t": 100}, cluster("cpu", 1, ranks), embeddings)
        (table,) = plan.tables
        assert [(s.column, s.columns) for s in table.shards(plan.cluster)] == columns
