"""Status, progress and metrics of a run, read from its directory in a few milliseconds. This module imports no torch.

Reading never waits for a training process, never writes into its directory and never takes its lock away.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ple_rec.config.metrics import GAUCS
from ple_rec.errors import PleRecError
from ple_rec.runs.layout import CHECKPOINTS, CONFIG, LOCK, LOG, METRICS, configured_checkpoint_place
from ple_rec.runs.metrics import split_tasks
from ple_rec.runs.read import RunFiles
from ple_rec.storage import Location, Remote
from ple_rec.storage.locks import take_lock
from ple_rec.text.json_values import as_mapping, as_number

# Content of the file `best` beside the checkpoints, and path of a checkpoint's manifest in a run directory.
_BEST = re.compile(r"step-([0-9]{1,18})")
_MANIFEST = re.compile(rf"{CHECKPOINTS}/step-[0-9]+/manifest\.json")

Status = Literal["running", "finished", "interrupted", "failed to start"]
TaskMetrics = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class RunRecord:
    """Status, progress and metrics of a run; a missing or damaged file counts as empty.

    Args:
        path: Run directory.
        status: Status of the run: "running" while a process holds its lock; "finished" if it has results that no later
            training record makes old; "failed to start" if it ended before its first record and checkpoint;
            "interrupted" otherwise.
        config: Content of `config.toml`.
        metrics: Content of `metrics.json` of a finished run; empty for other runs, also for resumed ones.
        train: Last training record of `train.jsonl`.
        valid: Last validation record of `train.jsonl`.
        changed: Time of the last write, in seconds since the epoch.
        damaged: Names of files that cannot be read.
    """

    path: Location
    status: Status
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    train: Mapping[str, Any]
    valid: Mapping[str, Any]
    changed: float
    damaged: tuple[str, ...]

    @property
    def variant(self) -> str | None:
        """Variant of the model; None if unknown."""
        variant = as_mapping(self.config.get("model")).get("variant")
        return variant if isinstance(variant, str) else None

    @property
    def step(self) -> int | None:
        """Last step that the results or the log have; None if there is none."""
        return _as_integer(self.metrics.get("steps")) or max(map(_step, (self.train, self.valid))) or None

    @property
    def total_steps(self) -> int | None:
        """Number of steps of the whole run, from the configuration or the last training record; None if unknown."""
        return _as_integer(as_mapping(self.config.get("train")).get("steps")) or _as_integer(
            self.train.get("total_steps")
        )

    @cached_property
    def best_step(self) -> int | None:
        """Step of the best checkpoint, from the results or the file `best` of the checkpoints; None if unknown."""
        if (known := _as_integer(self.metrics.get("best_step"))) is not None:
            return known
        try:
            name = (configured_checkpoint_place(self.path) / "best").read_text(encoding="utf-8")
        except (OSError, ValueError, PleRecError):
            return None
        step = _BEST.fullmatch(name.strip())
        return int(step[1]) if step else None

    @property
    def samples_per_second(self) -> float | None:
        """Training rate of the whole run, or of the last report if it has not finished; None if unknown."""
        return as_number((self.metrics or self.train).get("samples_per_second"))

    def tasks(self, split: str) -> TaskMetrics:
        """Return the metrics of the best checkpoint on a split; empty if the run has not finished.

        `gauc_error_bound` is added to the metrics of `metrics.json`: 0 for an exact GAUC, otherwise the distance of
        GAUC from the further end of its interval; and so for the GAUC of subgroups.
        """
        return self._final_metrics.get(split, {})

    @cached_property
    def _final_metrics(self) -> dict[str, TaskMetrics]:
        return {split: _numbers(split_tasks(self.metrics, split)) for split in ("valid", "test")}

    @cached_property
    def last_validation(self) -> TaskMetrics:
        """Metrics of the last validation record, in the form of `tasks`."""
        return _numbers({name: as_mapping(values) for name, values in as_mapping(self.valid.get("tasks")).items()})


def read_record(path: Location) -> RunRecord:
    """Return the record of a run directory; damaged files are named and left out.

    Raises:
        StoreError: The store cannot be read.
    """
    times = _modification_times(path)
    files = RunFiles(path)
    config, metrics, last = files.config, files.metrics, files.last_records()
    train, valid = last.get("train", {}), last.get("valid", {})
    status: Status
    if is_locked(path):
        status = "running"
    # A resumed run keeps its old results until it ends, but has training records of later steps.
    elif METRICS in times and (not metrics or _step(train) <= (as_number(metrics.get("steps")) or _step(train))):
        status = "finished"
    elif train or valid or any(_MANIFEST.fullmatch(name) for name in times):
        status = "interrupted"
    else:
        status = "failed to start"
    final = metrics if status == "finished" else {}
    changed = max((times.get(name, 0.0) for name in (METRICS, LOG, CONFIG, LOCK)), default=0.0)
    return RunRecord(path, status, config, final, train, valid, changed, tuple(files.damage))


def is_locked(path: Location) -> bool:
    """Return True if a process trains in the run directory, on any host that shares its file system or its store.

    On a disk, this function takes a shared lock and releases it at once. Training processes wait a little for their
    lock, so this does not stop one that starts, and several callers do not disturb one another.
    """
    if isinstance(path, Remote):
        from ple_rec.storage.lease import read_holder

        holder = read_holder(path)
        return holder is not None and holder.is_live
    try:
        with (path / LOCK).open("rb") as lock:
            return not take_lock(lock, shared=True)
    except OSError:
        # There is no lock, no permission to read it, or no support for locks.
        return False


def _modification_times(path: Location) -> Mapping[str, float]:
    """Return the modification times of files of a run and of the manifests of its checkpoints, by name.

    Times are in seconds since the epoch; files that cannot be read are left out.
    """
    if isinstance(path, Remote):
        from ple_rec.storage.store import objects_at

        files = objects_at(path)
        return {file.name: file.modified.timestamp() if file.modified else 0.0 for file in files}
    names = [METRICS, LOG, CONFIG, LOCK]
    with suppress(OSError):
        names += [str(file.relative_to(path)) for file in (path / CHECKPOINTS).glob("step-*/manifest.json")]
    times = {}
    for name in names:
        with suppress(OSError):
            times[name] = (path / name).stat().st_mtime
    return times


def _numbers(tasks: Mapping[str, Mapping[str, Any]]) -> TaskMetrics:
    """Return the metrics of each task that are numbers or null, and `gauc_error_bound`, as `RunRecord.tasks` says."""
    metrics: TaskMetrics = {}
    for name, values in tasks.items():
        metrics[name] = {
            key: None if as_number(value) is None else value
            for key, value in values.items()
            if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        }
        for key in GAUCS:
            if isinstance(exact := values.get(f"{key}_exact"), bool):
                metrics[name][f"{key}_error_bound"] = 0.0 if exact else _half_width(values, key)
    return metrics


def _half_width(values: Mapping[str, Any], key: str) -> float:
    """Return the distance of a GAUC from the further end of its interval; infinite if the interval is not known."""
    span, middle = values.get(f"{key}_interval"), as_number(values.get(key))
    ends = [as_number(end) for end in span] if isinstance(span, list) else []
    known = [abs(end - middle) for end in ends if end is not None and middle is not None]
    return max(known) if len(known) == 2 else math.inf


def _step(record: Mapping[str, Any]) -> int:
    return round(as_number(record.get("step")) or 0)


def _as_integer(value: object) -> int | None:
    finite = as_number(value)
    return None if finite is None else round(finite)
