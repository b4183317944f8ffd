"""What `metrics.json` says of a run beside its evaluations: steps, speed, data, versions, and the paper's figures."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ple_rec.config.load import fingerprint
from ple_rec.training.context import TrainContext
from ple_rec.training.state import TrainState

_PLE = {"model": "PLE", "table": "Table 5"}

# Tang et al., RecSys 2020, doi 10.1145/3383313.3412236.
FIGURES: dict[str, dict[str, dict[str, Any]]] = {
    "census": {"income": {"auc": 0.9522, **_PLE}, "never_married": {"auc": 0.9945, **_PLE}},
    "ali-ccp": {"ctr": {"auc": 0.6112, **_PLE}, "cvr": {"auc": 0.6097, **_PLE}},
}


def paper_figures(dataset: str, tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """PLE's figures of the paper for those of `tasks` that it reports on `dataset`."""
    known = FIGURES.get(dataset, {})
    return {task: known[task] for task in tasks if task in known}


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
