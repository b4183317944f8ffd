"""A small dataset and runs over it, for tests that train: written, configured and trained by real ranks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from data_prep import write_tables
from ple_rec.config.plan import PlanFile
from ple_rec.config.plan_table import TableOptimizer
from ple_rec.config.run import EmbeddingsConfig, RunConfig
from ple_rec.config.schema import SparseFeature, Task
from ple_rec.distributed.planning_inputs import PlanningInputs
from ple_rec.distributed.process_group import Ranks
from ple_rec.distributed.sharding import agreed_plan, shard
from ple_rec.distributed.topology import detect_cluster
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.state import decide_action, inspect_directory
from ple_rec.training.context import TrainContext, build_context
from ple_rec.training.loop import train_steps
from tests.datasets import write_dataset
from tests.rank_processes import run_ranks
from tests.reports.without_charts import without_charts

T = TypeVar("T")

ROWS = 203  # 9 steps an epoch; valid and test have 101 each
ROW_GROUPS = (40, 31, 17, 1, 52, 33, 29)
TIMES = ("seconds", "samples_per_second", "data_wait", "peak_bytes", "eta_seconds")


def write_small(path: Path, **features: Any) -> Path:
    """A dataset directory whose row groups, and so the ranks' shares, are uneven; `features` as of `write_dataset`."""
    write_dataset(path, rows=ROWS, row_group_rows=ROW_GROUPS, parts=3, **features)
    return path


def write_unrelated(path: Path) -> Path:
    """A dataset directory without a task, a feature or a column of the small one."""
    rows = pa.table({"city": [1, 2, 1, 0], "bought": [0.0, 1.0, 0.0, 1.0]})
    write_tables(
        path,
        name="shop",
        splits={"train": rows, "valid": rows, "test": rows},
        sparse=[SparseFeature(name="city", table="city")],
        dense=[],
        tasks=[Task(name="bought", kind="binary", label="bought")],
    )
    return path


def small_config(data: Path, changes: dict[str, Any] | None = None) -> RunConfig:
    """Two-level PLE, 24 samples a step in 12 virtual shards, 9 steps an epoch; `changes` by section."""
    level = {"task_experts": 1, "shared_experts": 1}
    raw: dict[str, Any] = {
        "name": "small",
        "seed": 3,
        "data": {"path": str(data), "virtual_shards": 12},
        "model": {
            "variant": "ple",
            "levels": [level | {"expert_hidden": [8]}, level | {"expert_hidden": [6]}],
            "tower": {"hidden": [4]},
        },
        "embeddings": {"dim": 4},
        "train": {"batch_size": 24, "steps": 4, "report_every": 2},
        "runtime": {"device": "cpu", "threads": 1},
    }
    for key, value in (changes or {}).items():
        raw[key] = raw.get(key, {}) | value if isinstance(value, dict) else value
    return RunConfig.model_validate_json(json.dumps(raw))


def resumes(config: RunConfig, run_dir: Path) -> None:
    """Refuse a configuration that the run of the directory may not be resumed under."""
    assert decide_action(inspect_directory(config, run_dir), config, resume=True, overwrite=False) == "resume"


SGD = {
    "dense_optimizer": {"kind": "sgd", "learning_rate": 0.5},
    "table_optimizer": {"kind": "sgd", "learning_rate": 2.0},
}


def ranks_of(rank: int, world_size: int) -> Ranks:
    """This rank of a process group that exists."""
    return Ranks(rank, world_size, world_size, torch.device("cpu"), 1)


def plan_and_shard(
    module: nn.Module,
    config: EmbeddingsConfig,
    ranks: Ranks,
    batch_size_per_rank: int,
    seed: int,
    optimizer: TableOptimizer = "rowwise_adagrad",
) -> tuple[DistributedModelParallel, PlanFile]:
    """A module with an optimizer attached, sharded as training does it, and its plan; a collective."""
    plan = agreed_plan(module, PlanningInputs(config, optimizer, detect_cluster(ranks), batch_size_per_rank, {}))
    return shard(module, plan, ranks, init_scale=config.init_scale, seed=seed), plan


def train_small(rank: int, world_size: int, config: RunConfig, run_dir: Path, *, resume: bool = False) -> TrainContext:
    """Train on this rank; the job as it stands at the end."""
    if rank == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
    dist.barrier()
    job = build_context(config, ranks_of(rank, world_size))
    train_steps(job, RunDirectory(run_dir, run_dir), resume=resume)
    return job


def whole_tables(model: nn.Module) -> dict[str, Tensor]:
    """Every table, put together from the shards of all ranks; a collective."""
    return whole_sharded({k.split(".")[-2]: v for k, v in model.state_dict().items() if isinstance(v, ShardedTensor)})


def whole_state_of(model: nn.Module) -> dict[str, Tensor]:
    """Every table by its key in the state of a model, put together from the shards of all ranks; a collective."""
    return whole_sharded({key: value for key, value in model.state_dict().items() if isinstance(value, ShardedTensor)})


def whole_state(job: TrainContext) -> dict[str, Tensor]:
    """Weights, tables and optimizer state of a job by name, the same on every rank; a collective."""
    flat = {f"model.{key}": value for key, value in job.model.state_dict().items()}
    for parameter, state in job.optimizers.combined.state_dict()["state"].items():
        flat |= {f"optimizer.{parameter}.{key}": value for key, value in state.items()}
    sharded = {key: value for key, value in flat.items() if isinstance(value, ShardedTensor)}
    rest = {key: torch.as_tensor(value).clone() for key, value in flat.items() if key not in sharded}
    return rest | whole_sharded(sharded)


def whole_sharded(sharded: dict[str, ShardedTensor]) -> dict[str, Tensor]:
    """Every tensor, put together from the shards of all ranks; a collective."""
    own = {
        key: (
            tuple(value.size()),
            [(list(s.metadata.shard_offsets), s.tensor.to("cpu", copy=True)) for s in value.local_shards()],
        )
        for key, value in sharded.items()
    }
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, own)
    tables: dict[str, Tensor] = {}
    for part in every:
        for key, (size, shards) in part.items():
            for offsets, piece in shards:
                whole = tables.setdefault(key, torch.full(size, float("nan"), dtype=piece.dtype))
                whole[tuple(slice(o, o + n) for o, n in zip(offsets, piece.shape, strict=True))] = piece
    return tables


def records(run_dir: Path, *, times: bool = False) -> list[dict[str, Any]]:
    """`train.jsonl`, without what a clock or a memory counter says unless asked for."""
    lines = [json.loads(line) for line in (run_dir / "train.jsonl").read_text().splitlines()]
    return lines if times else [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def on_ranks(fn: Callable[..., T], world_size: int, *args: object, init: bool = True) -> list[T]:
    """`run_ranks` whose fork server has imported this module, and whose reports have no charts."""
    return run_ranks(_without_charts, world_size, fn, *args, timeout=100, init=init)


def _without_charts(rank: int, world_size: int, fn: Callable[..., T], *args: object) -> T:
    with without_charts():
        return fn(rank, world_size, *args)


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest deviation, relative to the largest expected value."""
    assert found.shape == expected.shape
    assert found.isfinite().all()
    assert expected.isfinite().all()
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-30))
