"""Interface of a logger, and functions that flatten records, metrics and configurations to plain values by name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from ple_rec.config.base import SPLITS
from ple_rec.config.diff import leaves
from ple_rec.config.run import RunConfig

# First part of the tags of the final results, where the tags of a record have its split.
FINAL = "final"


def record_scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a record by tag, for example `train/loss`, `valid/income/auc` and `train/learning_rate`.

    Values that are no finite numbers are left out, and so are `step` and `total_steps`. A validation record gives only
    its loss and the metrics of its tasks; the training record of the same step has learning rates, samples and seconds.
    """
    split = record["split"]
    keys = record.keys() - {"step", "total_steps"} if split == "train" else {"loss"}
    values = {key: value for key, value in record.items() if key in keys}
    return _numbers(split, values) | _task_numbers(split, record["tasks"])


def final_scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of `metrics.json` by tag, for example `final/test/income/auc` and `final/best_step`."""
    numbers = _numbers(FINAL, metrics)
    for split in SPLITS:
        numbers |= _task_numbers(f"{FINAL}/{split}", metrics.get(split, {}).get("tasks", {}))
    return numbers


def flatten_config(config: RunConfig) -> dict[str, bool | int | float | str]:
    """Return the values of the configuration by flat key, for example `model.levels[0].task_experts`.

    Keys without a value are left out; a list is given as JSON text.
    """
    return {
        key: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for key, value in leaves(config)
        if value is not None
    }


def _task_numbers(prefix: str, tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for task, values in tasks.items():
        numbers |= _numbers(f"{prefix}/{task}", values)
    return numbers


def _numbers(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{prefix}/{key}": float(value)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


# Record of `train.jsonl`.
Record = Mapping[str, Any]


class TimedRecord(NamedTuple):
    """Record and its time, in seconds since 1970."""

    time: float
    record: Record


class Ending(NamedTuple):
    """End of a run.

    Args:
        time: Time of the end, in seconds since 1970.
        status: "finished" with results, "failed" by an error, "stopped" by a person, or "preempted" by a scheduler.
        metrics: Content of `metrics.json`; empty without results.
        files: Texts to store with the results, by their names in the run directory.
    """

    time: float
    status: Literal["finished", "failed", "stopped", "preempted"]
    metrics: Mapping[str, Any] = {}
    files: Mapping[str, str] = {}


class LoggerUnavailableError(Exception):
    """Error of a logger whose server or disk does not answer now; the same call may succeed later."""


class RunLogger(Protocol):
    """Logger of a run on rank 0, whose calls may take long, since `BackgroundLogger` makes them on a thread.

    A call that raises `LoggerUnavailableError` is repeated with the same arguments, so a call may take effect twice.
    Any other error drops the arguments. No error reaches the training.
    """

    @property
    def name(self) -> str:
        """Name in messages."""

    @property
    def recovery(self) -> str:
        """Text that says where the user finds records that the logger lacks, or how the logger can receive them."""

    @property
    def place(self) -> str:
        """Folder or page of the logged values."""

    def begin(self, step: int, past_records: Sequence[Record]) -> None:
        """Begin to log a run that has done `step` steps, with the records `past_records`."""

    def log(self, records: Sequence[TimedRecord]) -> None:
        """Log new records, the oldest first."""

    def end(self, ending: Ending) -> None:
        """Log the end of the run; no other call follows."""
