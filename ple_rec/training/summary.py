"""Summary of a run for `metrics.json`: steps, speed, data and versions; and the results that the PLE paper reports.

`ple_rec.training.run` adds both to the metrics of the evaluations.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ple_rec.config.load import fingerprint
from ple_rec.training.context import TrainContext
from ple_rec.training.state import TrainState

# Model and place of the paper's results below.
_PLE = {"model": "PLE", "table": "Table 5"}

# Results of the PLE paper (Tang et al., RecSys 2020, doi 10.1145/3383313.3412236), by dataset and task.
PAPER_FIGURES: dict[str, dict[str, dict[str, Any]]] = {
    "census": {"income": {"auc": 0.9522, **_PLE}, "never_married": {"auc": 0.9945, **_PLE}},
    "ali-ccp": {"ctr": {"auc": 0.6112, **_PLE}, "cvr": {"auc": 0.6097, **_PLE}},
}


def paper_figures(dataset: str, tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the metrics that the paper reports for PLE on a dataset, by task; empty for other datasets.

    Args:
        dataset: Name of the dataset.
        tasks: Names of the tasks of the run; those that the paper does not report are left out.
    """
    known = PAPER_FIGURES.get(dataset, {})
    return {task: known[task] for task in tasks if task in known}


def summary(context: TrainContext, state: TrainState) -> dict[str, Any]:
    """Return the entries of `metrics.json` that come from the training; `samples_per_second` is its mean speed."""
    samples = state.step * context.loader.rows / context.loader.steps
    tables = sum(table.rows * table.dim for table in context.plan.tables)
    return {
        "samples_per_second": samples / max(state.seconds, 1e-9),
        "config_fingerprint": fingerprint(context.config),
        "dataset_fingerprint": context.dataset.schema.fingerprint,
        "parameters": {"dense": context.unwrapped_model.dense_parameters(), "tables": tables},
        "flops_per_sample": context.unwrapped_model.flops_per_sample(),
        "precision": context.precision.record(),
        "best_step": state.best_step,
        "best_metric": context.config.train.best_metric,
        # The score of a metric for which lower is better is the negated metric.
        "best_value": abs(state.best_score) if math.isfinite(state.best_score) else None,
        "stopped_early": state.step < context.total_steps,
        "steps": state.step,
        "world_size": context.ranks.world_size,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("ple-rec", "torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "pyarrow"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
