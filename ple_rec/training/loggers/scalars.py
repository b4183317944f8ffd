"""Records, final metrics and configurations as flat names with plain values, the same for every watcher."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ple_rec.config.base import SPLITS
from ple_rec.config.diff import leaves
from ple_rec.config.run import RunConfig

FINAL = "final"


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record by tag: `train/loss`, `train/income/auc`, `valid/income/auc`, `train/learning_rate`.

    A value that is null or not finite is left out. What a record of validation says of the loop (learning rates,
    samples, seconds) is left out too, since the record of training at the same step says it.
    """
    split = record["split"]
    keys = record.keys() - {"step", "total_steps"} if split == "train" else {"loss"}
    own = {key: value for key, value in record.items() if key in keys}
    return _numbers(split, own) | _of_tasks(split, record["tasks"])


def final_scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of `metrics.json` by tag: `final/test/income/auc`, `final/samples_per_second`."""
    found = _numbers(FINAL, metrics)
    for split in SPLITS:
        found |= _of_tasks(f"{FINAL}/{split}", metrics.get(split, {}).get("tasks", {}))
    return found


def flat(config: RunConfig) -> dict[str, bool | int | float | str]:
    """Every key of the configuration that has a value: `model.levels[0].task_experts`; a list as its JSON text."""
    return {
        key: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for key, value in leaves(config)
        if value is not None
    }


def _of_tasks(prefix: str, tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for task, values in tasks.items():
        found |= _numbers(f"{prefix}/{task}", values)
    return found


def _numbers(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{prefix}/{key}": float(value)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
