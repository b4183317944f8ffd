"""What `metrics.json` says of a run beside its evaluations: how far, how fast, on what, by which versions."""

from __future__ import annotations

import math
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ple_rec.config.load import fingerprint
from ple_rec.training.context import TrainContext
from ple_rec.training.state import TrainState


def summary(job: TrainContext, position: TrainState) -> dict[str, Any]:
    """Return what `metrics.json` says of a run beside its evaluations."""
    trained = position.step * job.loader.rows / job.loader.steps
    tables = sum(table.rows * table.dim for table in job.plan.tables)
    return {
        "samples_per_second": trained / max(position.seconds, 1e-9),
        "config_fingerprint": fingerprint(job.config),
        "dataset_fingerprint": job.dataset.schema.fingerprint,
        "parameters": {"dense": job.bare.dense_parameters(), "tables": tables},
        "flops_per_sample": job.bare.flops_per_sample(),
        "precision": job.precision.record(),
        "best_step": position.best_step,
        "best_metric": job.config.train.best_metric,
        "best_value": abs(position.best_score) if math.isfinite(position.best_score) else None,
        "stopped_early": position.step < job.total_steps,
        "steps": position.step,
        "world_size": job.ranks.world_size,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("ple-rec", "torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "pyarrow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
