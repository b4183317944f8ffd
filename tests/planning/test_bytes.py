"""Bytes of every rank: by the plan, by a calculation of its own, and as real ranks allocate them."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from ple_rec.config.plan import Plan, TablePlan
from ple_rec.config.run import EmbeddingsConfig, RunConfig
from ple_rec.parallel.sharding import local_shards
from ple_rec.planning.subject import describe, plan_run
from ple_rec.train.job import Job, assemble
from tests.planning.samples import cluster, plan_of, planned
from tests.train.small import on_ranks, ranks_of, small_config, write_small

STATE = {"rowwise_adagrad": lambda r, d: 4 * r, "adagrad": lambda r, d: 4 * r * d, "sgd": lambda r, d: 0}
STATE["adam"] = lambda r, d: 8 * r * d


def by_hand(plan: Plan) -> list[dict[str, int]]:
    """Bytes of every rank, added up value by value from the shards, with none of the plan's own methods."""
    batch, local = plan.batch_size_per_rank, plan.cluster.ranks_per_host
    world = plan.cluster.hosts * local
    ranks: list[dict[str, int]] = [defaultdict(int) for _ in range(world)]
    for table in plan.tables:
        width = {"fp32": 4, "fp16": 2}[table.dtype]
        for shard in table.shards:
            here = ranks[shard.rank]
            on_gpu = plan.cluster.hardware.device != "cpu"
            where = "hbm" if on_gpu else "host"
            weights = shard.rows * shard.columns * width
            state = STATE[plan.optimizer](shard.rows, shard.columns)
            here["host" if on_gpu and table.kernel != "fused" else where] += weights
            here[where if plan.optimizer == "rowwise_adagrad" or table.kernel == "fused" else "host"] += state
            if table.kernel == "fused_uvm_caching":
                assert table.cache_load_factor is not None
                here["hbm"] += math.ceil(weights * table.cache_load_factor)
                here["hbm"] += math.ceil(shard.rows * (4 + 16 * table.cache_load_factor))
            samples = {"row_wise": batch, "table_row_wise": batch * world / local}.get(table.sharding, batch * world)
            here[where] += math.ceil(8 * samples * sum(table.ids_per_sample))
            here[where] += 4 * batch * world * shard.columns * len(table.ids_per_sample)
    return ranks


@pytest.mark.parametrize(
    ("on", "overrides"),
    [
        (cluster("h100", 1, 8), ()),
        (cluster("a100-80", 2, 4), ("embeddings.sharding=row_wise", "embeddings.dtype=fp16")),
        (cluster("h100", 1, 2), ("embeddings.kernel=fused_uvm_caching", "embeddings.cache_load_factor=0.1")),
        (cluster("h100", 1, 2), ("embeddings.kernel=fused_uvm", "table_optimizer.kind=adagrad")),
        (cluster("h200", 1, 4), ("table_optimizer.kind=adam", "embeddings.sharding=column_wise")),
        (cluster("cpu", 2, 2), ("embeddings.sharding=row_wise", "table_optimizer.kind=sgd")),
    ],
)
def test_bytes_of_a_rank_are_those_by_hand(on: Any, overrides: tuple[str, ...]) -> None:
    plan = planned(on, *overrides)
    expected = by_hand(plan)
    assert [(m.hbm, m.host) for m in plan.memory] == [(each["hbm"], each["host"]) for each in expected]
    assert sum(m.weights for m in plan.memory) == sum(t.bytes for t in plan.tables)


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


def _allocated(job: Job) -> tuple[int, int]:
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
        job = assemble(config, ranks_of(rank, world_size))
        shards = sorted((t, row, column, *values.shape) for t, values, row, column, _ in local_shards(job.model))
        specs = {
            table: (p.sharding_type, p.compute_kernel, list(p.ranks or []))
            for module in job.model.plan.plan.values()
            for table, p in module.items()
        }
        found[name] = shards, specs, _allocated(job), job.plan.tables
    return found


def _shards_of(plan: Plan, rank: int) -> list[tuple[str, int, int, int, int]]:
    here = ((t.table, s) for t in plan.tables for s in t.shards if s.rank == rank)
    return sorted((table, s.row, s.column, s.rows, s.columns) for table, s in here)


def _spec(table: TablePlan) -> tuple[str, str, list[int]]:
    return table.sharding, table.kernel, list(table.ranks)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_plan_made_offline_is_what_real_ranks_build_and_allocate(world_size: int, tmp_path: Path) -> None:
    data = write_small(tmp_path / "data")
    configs = {name: small_config(data, {"embeddings": {"dim": 8} | changes}) for name, changes in CASES.items()}
    every = on_ranks(_built, world_size, configs)
    for name, config in configs.items():
        plan = plan_run(config, describe(config), cluster("cpu", 1, world_size))
        for rank, results in enumerate(every):
            shards, specs, (weights, state), online = results[name]
            assert online == plan.tables
            assert shards == _shards_of(plan, rank)
            assert specs == {table.table: _spec(table) for table in plan.tables}
            memory = plan.memory[rank]
            assert (weights, state) == (memory.host_weights, memory.host_optimizer)


def test_a_column_wise_table_has_a_shard_for_every_rank_that_it_can_have() -> None:
    embeddings = EmbeddingsConfig(dim=16, sharding="column_wise")
    (table,) = plan_of({"t": 100}, cluster("cpu", 1, 3), embeddings).tables
    assert [(s.column, s.columns) for s in table.shards] == [(0, 8), (8, 8)]
    (table,) = plan_of({"t": 100}, cluster("cpu", 1, 8), embeddings).tables
    assert [s.columns for s in table.shards] == [4, 4, 4, 4]
