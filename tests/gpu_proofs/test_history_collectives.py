"""Collectives of a training with attention over histories: the same on all ranks, with the bytes of the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ple_rec.config.plan_table import shard_memory
from ple_rec.config.run import RunConfig
from tests.gpu_proofs.test_collectives import (
    STEPS,
    _assert_finished,
    _assert_same_sequences,
    _EnoughError,
    _train,
    _Training,
)
from tests.histories import write_histories
from tests.training.small import small_config

WORLD = 4
SAMPLES = 12  # of a rank in a step
FEATURES = {
    "user": ("user",),
    "video": ("video", "liked.video"),
    "author": ("author", "liked.author"),
    "tab": ("tab", "liked.tab"),
    "liked_age": ("liked_age",),
}
SHARDINGS: dict[str, dict[str, str]] = {
    "whole": dict.fromkeys(FEATURES, "table_wise"),
    "rows": {"user": "row_wise", "video": "row_wise", "author": "table_wise", "tab": "row_wise"},
    "columns": {"user": "row_wise", "video": "column_wise", "author": "column_wise", "tab": "column_wise"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history_collectives") / "data"
    write_histories(folder)
    return folder


def _config(data: Path, shardings: dict[str, str], **train: Any) -> RunConfig:
    tables = {table: {"sharding": sharding} for table, sharding in shardings.items()}
    config = small_config(
        data,
        {
            "tasks": [{"name": "click"}, {"name": "watch"}],
            "data": {"virtual_shards": WORLD},
            "embeddings": {"dim": 8, "tables": tables},
            "train": {"batch_size": SAMPLES * WORLD, "steps": STEPS, "report_every": 2, "evaluate_every": 3} | train,
            "checkpoint": {"every": 2},
        },
    )
    return config.model_copy(update={"model": config.model.model_copy(update={"history": "din"})})


@pytest.mark.parametrize("pipeline", ["none", "sparse_dist"])
def test_all_ranks_call_the_same_collectives(pipeline: str, data: Path, tmp_path: Path) -> None:
    config = _config(data, SHARDINGS["rows"] | {"liked_age": "table_wise"}, pipeline=pipeline)
    training = _train(config, tmp_path / "run", WORLD)
    _assert_finished(training)
    _assert_same_sequences(training, "step", "report", "evaluation", "save")


def _floats(training: _Training) -> int:
    """Bytes of the rows that all ranks send in the forward pass of the first step; the other half are gradients."""
    total = 0
    for rank in range(WORLD):
        calls = training.steps[rank][0]
        sent = [sum(c.sent) for c in calls if c.sent is not None and c.dtype == "float32" and c.group == "0"]
        total += sum(sent[: len(sent) // 2])
        total += sum(c.bytes for c in calls if c.name == "ReduceScatter SUM")
    return total


@pytest.mark.parametrize("shardings", SHARDINGS)
def test_a_step_exchanges_the_bytes_of_the_plan(shardings: str, data: Path, tmp_path: Path) -> None:
    training = _train(_config(data, SHARDINGS[shardings]), tmp_path / "run", WORLD, most_steps=1)
    assert [type(result) for result in training.results] == [_EnoughError] * WORLD
    _assert_same_sequences(training, "step")
    plan, _ = training.plans[0]
    expected = 0
    for table in plan.tables:
        assert table.unpooled == (table.table != "user")
        assert table.sharding == SHARDINGS[shardings].get(table.table, table.sharding)
        counts = [sum(training.ids[r][0][name] for r in range(WORLD)) for name in FEATURES[table.table]]
        ids = tuple(count / (SAMPLES * WORLD) for count in counts)
        for shard in table.shards(plan.cluster):
            batch = shard_memory(
                rows=shard.rows,
                columns=shard.columns,
                dtype=table.dtype,
                ids_per_sample=ids,
                sharding=table.sharding,
                kernel=table.kernel,
                cache_load_factor=None,
                optimizer=plan.optimizer,
                cluster=plan.cluster,
                batch_size_per_rank=plan.batch_size_per_rank,
                unpooled=table.unpooled,
            ).batch
            # The shards of a table that is cut by rows share its ids; each other shard gets all ids.
            shares = WORLD if table.sharding == "row_wise" else 1
            expected += batch - 8 * sum(counts) // shares
    assert abs(_floats(training) - expected) <= 2 * sum(len(t.shards(plan.cluster)) for t in plan.tables)
    kinds = {(table.unpooled, table.sharding) for table in plan.tables}
    for rank in range(WORLD):
        calls = training.steps[rank][0]
        assert len([c for c in calls if c.sent is not None and c.dtype == "int64" and c.group == "0"]) == len(kinds)
