"""A tiny training on one GPU: the weights of a CPU run under SGD, fused Adam for the tables, bf16.

It runs in a fresh interpreter: importing FBGEMM asks CUDA for its devices, and a process forked afterwards, as the test
ranks are, may not use them.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ple_rec.config.run import RunConfig
from ple_rec.distributed.process_group import process_group
from ple_rec.distributed.sharding import local_shards
from ple_rec.runs.directory import RunDirectory
from ple_rec.runtime.versions import CUDA_WHEEL, installed_version
from ple_rec.training.context import TrainContext, build_context
from ple_rec.training.loop import train_steps
from tests.training.small import SGD, records, relative, small_config, whole_tables, write_small

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(installed_version(CUDA_WHEEL) is None, reason="FBGEMM's CUDA wheel is not installed"),
]

DEVICE = "cuda"
STEPS = 18  # two epochs
ADAM_RATE = 0.01
Weights = dict[str, Tensor]


def _config(data: Path, device: str, changes: dict[str, Any]) -> RunConfig:
    train = {"batch_size": 24, "steps": STEPS, "report_every": 3} | changes.get("train", {})
    changes = {key: value for key, value in changes.items() if key != "train"}
    return small_config(data, SGD | {"train": train, "runtime": {"device": device, "threads": 1}} | changes)


def _weights(job: TrainContext) -> Weights:
    """On the CPU, by name; a collective."""
    dense = {
        k: v.detach().cpu().clone() for k, v in job.unwrapped_model.named_parameters() if not k.startswith("embeddings")
    }
    return dense | whole_tables(job.model)


def _trained(config: RunConfig, run_dir: Path) -> dict[str, Any]:
    """One run, from the start of its process group to the end."""
    run_dir.mkdir(parents=True)
    with process_group(config.runtime) as ranks:
        job = build_context(config, ranks)
        before = _weights(job)
        train_steps(job, RunDirectory(run_dir, run_dir), resume=False)
        tables = {tensor.device.type for _, tensor, *_ in local_shards(job.model)}
        dense = {v.device.type for k, v in job.unwrapped_model.named_parameters() if not k.startswith("embeddings")}
        return {
            "before": before,
            "after": _weights(job),
            "records": records(run_dir),
            "where": (ranks.device.type, dist.get_backend(), *sorted(tables), *sorted(dense)),
        }


def _all_runs(folder: Path) -> dict[str, dict[str, Any]]:
    torch.set_float32_matmul_precision("highest")  # some containers turn TF32 on
    data = folder / "data"
    adam = {"table_optimizer": {"kind": "adam", "learning_rate": ADAM_RATE}}
    configs = {
        "cpu": _config(data, "cpu", {}),
        "gpu": _config(data, DEVICE, {}),
        "bf16": _config(data, DEVICE, {"train": {"precision": "bf16"}}),
        "adam": _config(data, DEVICE, adam),
        "one step of adam": _config(data, DEVICE, adam | {"train": {"steps": 1}}),
    }
    return {name: _trained(config, folder / "runs" / name) for name, config in configs.items()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("gpu")
    write_small(folder / "data")
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # leaving it ends the process, whatever it does
        return pool.apply_async(_all_runs, (folder,)).get(timeout=300)


def _losses(run: dict[str, Any]) -> list[float]:
    return [record["loss"] for record in run["records"] if record["split"] == "train"]


def test_everything_is_where_it_belongs(runs: dict[str, dict[str, Any]]) -> None:
    where = {name: run["where"] for name, run in runs.items()}
    assert where.pop("cpu") == ("cpu", "gloo", "cpu", "cpu")
    assert set(where.values()) == {("cuda", "nccl", "cuda", "cuda")}


def test_weights_are_those_of_the_cpu(runs: dict[str, dict[str, Any]]) -> None:
    cpu, gpu = runs["cpu"], runs["gpu"]
    assert gpu["after"].keys() == cpu["after"].keys()
    assert all(torch.equal(gpu["before"][name], value) for name, value in cpu["before"].items())
    moved = {name: relative(value, cpu["before"][name]) for name, value in cpu["after"].items()}
    assert min(moved.values()) > 1e-3, moved
    far = {name: error for name in cpu["after"] if (error := relative(gpu["after"][name], cpu["after"][name])) > 1e-4}
    assert not far
    assert _losses(gpu) == pytest.approx(_losses(cpu), rel=1e-4)


def test_bf16_trains_near_fp32(runs: dict[str, dict[str, Any]]) -> None:
    full, half = runs["gpu"], runs["bf16"]
    assert all(value.dtype == torch.float32 for value in half["after"].values())
    errors = [relative(half["after"][name], full["after"][name]) for name in full["after"]]
    assert max(errors) > 1e-4  # or bf16 was not used
    assert _losses(half) == pytest.approx(_losses(full), rel=0.02)


def _tables(weights: Weights) -> Weights:
    return {name: value for name, value in weights.items() if "." not in name}


def _moved(run: dict[str, Any]) -> Weights:
    """How far every value of every table went."""
    return {name: (_tables(run["after"])[name] - before).abs() for name, before in _tables(run["before"]).items()}


def test_the_first_step_of_fused_adam_is_the_learning_rate(runs: dict[str, dict[str, Any]]) -> None:
    """m / sqrt(v) is +-1 after one step, for each value whose gradient is well above eps; rows not read stay."""
    moved = _moved(runs["one step of adam"])
    assert len(moved) == 3
    assert [moved_RD.max().item() for moved_RD in moved.values()] == pytest.approx([ADAM_RATE] * 3, rel=1e-3)
    assert any((moved_RD == 0).all(1).any() for moved_RD in moved.values())


def test_fused_adam_goes_on(runs: dict[str, dict[str, Any]]) -> None:
    run = runs["adam"]
    assert len(_losses(run)) == STEPS // 3
    assert all(value.isfinite().all() for value in run["after"].values())
    assert min(moved_RD.max().item() for moved_RD in _moved(run).values()) > 1.5 * ADAM_RATE
