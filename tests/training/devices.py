"""One body of a test for the CPU and for GPUs: trainings in fresh interpreters, on one rank or on several.

Fresh, because importing FBGEMM asks CUDA for its devices, and a process forked afterwards, as the test ranks are, may
not use them.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from ple_rec.config.load import dump_toml, load_config
from ple_rec.config.run import RunConfig
from ple_rec.distributed.collectives import run_on_rank_zero
from ple_rec.distributed.process_group import Ranks, process_group
from ple_rec.runs.directory import RunDirectory
from ple_rec.runtime.exits import end_process, run_reporting_errors
from ple_rec.runtime.versions import CUDA_WHEEL, installed_version
from ple_rec.training.context import TrainContext, build_context
from ple_rec.training.loop import train_steps
from tests.project_files import REPOSITORY
from tests.training.small import records, whole_tables

T = TypeVar("T")
Weights = dict[str, Tensor]

_WHEEL = pytest.mark.skipif(installed_version(CUDA_WHEEL) is None, reason="FBGEMM's CUDA wheel is not installed")


def devices(gpus: int = 1) -> list[Any]:
    """Values of a parameter `device`: the CPU, which shows that the body of the test is right, and so many GPUs."""
    return [
        pytest.param("cpu", marks=pytest.mark.slow),
        pytest.param("cuda", marks=[pytest.mark.gpu(gpus), _WHEEL]),
    ]


def in_new_process(fn: Callable[..., T], *args: object, timeout: float = 300) -> T:
    """Call `fn(*args)` in a process that has imported nothing yet."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # leaving it ends the process, whatever it does
        return pool.apply_async(fn, args).get(timeout=timeout)


def weights_of(job: TrainContext) -> Weights:
    """Dense weights and whole tables on the CPU, by name; a collective."""
    dense = {
        k: v.detach().cpu().clone() for k, v in job.unwrapped_model.named_parameters() if not k.startswith("embeddings")
    }
    return dense | {name: table.cpu() for name, table in whole_tables(job.model).items()}


def trained(config: RunConfig, run_dir: Path, *, resume: bool = False) -> dict[str, Any]:
    """One run on one rank, from the start of its process group to the end: weights before and after, and records."""
    torch.set_float32_matmul_precision("highest")  # some containers turn TF32 on
    with process_group(config.runtime) as ranks:
        return trained_in_group(config, ranks, run_dir, resume=resume)


def trained_in_group(config: RunConfig, ranks: Ranks, run_dir: Path, *, resume: bool = False) -> dict[str, Any]:
    """The same on the ranks of a group that is there."""
    run_on_rank_zero(lambda: run_dir.mkdir(parents=True, exist_ok=resume))
    job = build_context(config, ranks)
    before = weights_of(job)
    train_steps(job, RunDirectory(run_dir, run_dir), resume=resume)
    return {"before": before, "after": weights_of(job), "records": records(run_dir), "device": ranks.device.type}


def losses(run: dict[str, Any]) -> list[float]:
    """Training losses of the records."""
    return [record["loss"] for record in run["records"] if record["split"] == "train"]


def command(*arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """A command of this Python, as a user starts it, with one thread a rank."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def trained_by_ranks(configs: Mapping[str, RunConfig], folder: Path, ranks: int) -> dict[str, Weights]:
    """Train by each configuration on ranks that torchrun starts once for all; the weights by name."""
    for name, config in configs.items():
        (folder / f"{name}.toml").write_text(dump_toml(config))
    agent = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}")
    done = command(*agent, "-m", "tests.training.devices", str(folder), *configs)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return {name: torch.load(folder / f"{name}.pt") for name in configs}


def _main(folder: Path, names: Sequence[str]) -> None:
    """A rank."""
    torch.set_float32_matmul_precision("highest")
    configs = {name: load_config(RunConfig, folder / f"{name}.toml") for name in names}
    with process_group(configs[names[0]].runtime) as ranks:
        for name, config in configs.items():
            weights = trained_in_group(config, ranks, folder / name)["after"]
            if ranks.is_main:
                torch.save(weights, folder / f"{name}.pt")


if __name__ == "__main__":
    end_process(run_reporting_errors(lambda: _main(Path(sys.argv[1]), sys.argv[2:])))
