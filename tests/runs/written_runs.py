"""Run directories as training leaves them, written in a moment: finished, unfinished, with any metrics."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ple_rec.checkpoint.manifest import FileInfo, Manifest
from ple_rec.config.load import dump_toml, fingerprint, load_config
from ple_rec.config.run import RunConfig
from tests.tiny import CONFIG

Tasks = Mapping[str, dict[str, Any]]

NOW = 1_800_000_000.0
TASKS: Tasks = {
    "click": {"samples": 64, "auc": 0.75, "auc_error_bound": 0.0, "ne": 0.5, "logloss": 0.25, "calibration": 1.0},
    "watch": {"samples": 32, "mse": 0.25, "rmse": 0.5, "mae": 0.375, "calibration": 1.25},
}


def train_record(step: int = 8, *, total: int = 16) -> dict[str, Any]:
    """Of `train.jsonl`: half a second a step."""
    seconds = step / 2
    tasks = {"click": {"loss": 0.5, "weight": 1.0, "auc": 0.125}}
    return {
        "split": "train",
        "step": step,
        "total_steps": total,
        "seconds": seconds,
        "tasks": tasks,
        "samples_per_second": 32.0,
        "eta_seconds": seconds / step * (total - step),
    }


def valid_record(step: int = 8, tasks: Tasks = TASKS) -> dict[str, Any]:
    """Of `train.jsonl`."""
    return {"split": "valid", "step": step, "seconds": step / 2, "loss": 0.5, "tasks": tasks, "best": True}


def final_metrics(tasks: Tasks = TASKS, *, config: RunConfig | None = None, **changes: Any) -> dict[str, Any]:
    """`metrics.json` of 16 steps."""
    found: dict[str, Any] = {
        "checkpoint": "step-16",
        "valid": {"tasks": tasks, "curves": {"click": {"roc": [[0.0, 0.0], [1.0, 1.0]]}}},
        "test": {"tasks": tasks},
        "samples_per_second": 1024.0,
        "config_fingerprint": fingerprint(config) if config else "0" * 16,
        "dataset_fingerprint": "0123456789abcdef",
        "parameters": {"dense": 1000, "tables": 200},
        "flops_per_sample": 2000,
        "best_step": 16,
        "steps": 16,
        "world_size": 1,
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
    }
    return found | changes


def write_run(
    path: Path,
    *overrides: str,
    metrics: Mapping[str, Any] | None = None,
    log: Sequence[Mapping[str, Any]] = (),
    age: float = 60.0,
) -> Path:
    """A run directory.

    Args:
        path: Of it.
        overrides: Of the configuration in `tests.tiny`.
        metrics: `metrics.json`; None for a run that has not finished.
        log: The records of `train.jsonl`.
        age: Seconds from its last write to `NOW`.
    """
    path.mkdir(parents=True)
    file = path / "config.toml"
    file.write_text(CONFIG)
    file.write_text(dump_toml(load_config(RunConfig, file, overrides)), encoding="utf-8")
    (path / "plan.json").write_text(json.dumps({"version": 1, "world_size": 2, "tables": []}))
    (path / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log))
    (path / ".lock").write_text("4711")
    if metrics is not None:
        (path / "metrics.json").write_text(json.dumps(metrics, indent=1))
    touch(path, age)
    return path


def write_checkpoint(path: Path, step: int, *, dataset: str = "0123456789abcdef", ranks: int = 2) -> None:
    """A checkpoint without weights, the best and the latest one; the run keeps its age."""
    folder = path / "checkpoints" / f"step-{step}"
    folder.mkdir(parents=True)
    files = {f"rank-{rank}": FileInfo(0, None) for rank in range(ranks)}
    (folder / "manifest.json").write_text(Manifest(step, {"ranks": ranks, "dataset": dataset}, files).to_json())
    for name in ("best", "latest"):
        (path / "checkpoints" / name).write_text(f"step-{step}\n")


def touch(path: Path, age: float) -> None:
    """Every file of the run was last written `age` seconds before `NOW`."""
    for file in path.iterdir():
        os.utime(file, (NOW - age, NOW - age))
