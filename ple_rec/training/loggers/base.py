"""The contract of a logger, and records, metrics and configurations as flat names with plain values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

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


Record = Mapping[str, Any]  # of `train.jsonl`


class TimedRecord(NamedTuple):
    """A record and when it was made, in seconds since 1970."""

    time: float
    record: Record


class Ending(NamedTuple):
    """How a run ended.

    Args:
        time: When, in seconds since 1970.
        status: "finished" with results, "failed" by an error, "stopped" by a person, or "preempted" by a scheduler.
        metrics: What `metrics.json` holds; empty without results.
        files: Texts worth keeping with the results, by the names that they have in the run directory.
    """

    time: float
    status: Literal["finished", "failed", "stopped", "preempted"]
    metrics: Mapping[str, Any] = {}
    files: Mapping[str, str] = {}


class UnavailableError(Exception):
    """What a logger writes to does not answer now; the same call may succeed later."""


class RunLogger(Protocol):
    """Hears what a run reports, on rank 0 and on a thread of its own (`Background`), so that each call may take long.

    A call that raises `UnavailableError` is made again with the same arguments, so it may be done twice; one that
    raises anything else is not. Neither reaches the training.
    """

    @property
    def name(self) -> str:
        """In messages."""

    @property
    def recovery(self) -> str:
        """Where what it missed is found, or how it gets it."""

    @property
    def place(self) -> str:
        """Where a person finds what it keeps."""

    def begin(self, step: int, past: Sequence[Record]) -> None:
        """The run starts after `step` steps; `past` is what `train.jsonl` says of them."""

    def log(self, records: Sequence[TimedRecord]) -> None:
        """Take new records, the oldest first."""

    def end(self, ending: Ending) -> None:
        """The last call."""
