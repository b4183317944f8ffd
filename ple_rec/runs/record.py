"""What a run directory says of its run, in a few milliseconds: status, progress, metrics. Needs no torch.

Nothing here waits for a process that trains, writes into its directory, or takes its lock from it.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ple_rec.errors import PleRecError
from ple_rec.runs.layout import CHECKPOINTS, CONFIG, LOCK, LOG, METRICS, checkpoints_of
from ple_rec.runs.results import mapping, number, split_tasks
from ple_rec.storage import Location, Remote
from ple_rec.storage.locks import take_lock

_BEST = re.compile(r"step-([0-9]{1,18})")
_MANIFEST = re.compile(rf"{CHECKPOINTS}/step-[0-9]+/manifest\.json")
_SPLITS = {"train": b'"train"', "valid": b'"valid"'}

Status = Literal["running", "finished", "interrupted", "failed to start"]
TaskMetrics = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class RunRecord:
    """A run as its directory tells of it; what is absent or damaged is empty.

    Args:
        path: The run directory.
        status: `running` while a process holds its lock; `failed to start` where it ended before its first report.
        config: `config.toml` as it stands.
        metrics: `metrics.json` of a finished run; empty before, and after it has been taken up again.
        train: The last training record of `train.jsonl`.
        valid: The last validation record of `train.jsonl`.
        changed: When it last wrote, in seconds since the epoch.
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
        """Of the model."""
        found = mapping(self.config.get("model")).get("variant")
        return found if isinstance(found, str) else None

    @property
    def step(self) -> int | None:
        """Steps done, as far as they are recorded."""
        return _whole(self.metrics.get("steps")) or max(map(_step, (self.train, self.valid))) or None

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole run: configured, or as the last record says."""
        return _whole(mapping(self.config.get("train")).get("steps")) or _whole(self.train.get("total_steps"))

    @cached_property
    def best_step(self) -> int | None:
        """Step of the best checkpoint."""
        if (known := _whole(self.metrics.get("best_step"))) is not None:
            return known
        try:
            name = (checkpoints_of(self.path) / "best").read_text()
        except (OSError, ValueError, PleRecError):
            return None
        step = _BEST.fullmatch(name.strip())
        return int(step[1]) if step else None

    @property
    def samples_per_second(self) -> float | None:
        """Over the whole run, or of the last report where it has not finished."""
        return number((self.metrics or self.train).get("samples_per_second"))

    def tasks(self, split: str) -> TaskMetrics:
        """Final metrics on `split`, of the best checkpoint; empty where the run has none.

        Beside what is recorded, `gauc_error_bound`: how far GAUC may be from either end of its interval.
        """
        return self._final.get(split, {})

    @cached_property
    def _final(self) -> dict[str, TaskMetrics]:
        return {split: _numbers(split_tasks(self.metrics, split)) for split in ("valid", "test")}

    @cached_property
    def last_validation(self) -> TaskMetrics:
        """Metrics of the last validation record, as `tasks` has them."""
        return _numbers({name: mapping(values) for name, values in mapping(self.valid.get("tasks")).items()})


def read_record(path: Location) -> RunRecord:
    """Read a run directory; a damaged file is named, and left out.

    Raises:
        StoreError: Its store cannot be read.
    """
    damaged: list[str] = []
    times = _times(path)
    config = read_mapping(path / CONFIG, tomllib.loads, damaged)
    metrics = read_mapping(path / METRICS, json.loads, damaged)
    train, valid = _last_records(path / LOG, damaged)
    status: Status
    if locked(path):
        status = "running"
    elif METRICS in times and (not metrics or _step(train) <= (number(metrics.get("steps")) or _step(train))):
        status = "finished"
    elif train or valid or any(_MANIFEST.fullmatch(name) for name in times):
        status = "interrupted"
    else:
        status = "failed to start"
    final = metrics if status == "finished" else {}
    changed = max((times.get(name, 0.0) for name in (METRICS, LOG, CONFIG, LOCK)), default=0.0)
    return RunRecord(path, status, config, final, train, valid, changed, tuple(damaged))


def locked(path: Location) -> bool:
    """Return True if a process trains in the run directory, on any host that shares its file system or its store.

    Asks for a shared lock and lets it go at once: a process that holds the lock notices nothing, and several that ask
    do not see one another.
    """
    if isinstance(path, Remote):
        from ple_rec.storage.lease import holder_of

        holder = holder_of(path)
        return holder is not None and holder.is_live
    try:
        with (path / LOCK).open("rb") as lock:
            return not take_lock(lock, shared=True)
    except OSError:  # there is none, or no permission, or a file system without locks
        return False


def read_mapping(file: Location, parse: Callable[[str], Any], damaged: list[str]) -> Mapping[str, Any]:
    """Return the content of a file; nothing if it is absent, or damaged, and then its name is added to `damaged`."""
    try:
        content = parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):  # not readable, not UTF-8, not JSON or TOML, or without end
        content = None
    if not isinstance(content, dict):
        damaged.append(file.name)
    return mapping(content)


def _last_records(log: Location, damaged: list[str]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the last training record and the last validation record; a last line may have been cut off."""
    try:
        *lines, _ = log.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}, {}
    except OSError:
        damaged.append(log.name)
        return {}, {}
    last: dict[str, Mapping[str, Any]] = {}
    unreadable = False
    for line in reversed(lines):
        # Most lines are of a split that is found already, and not worth parsing.
        if not any(split not in last and name in line for split, name in _SPLITS.items()):
            continue
        record = _record(line)
        unreadable |= not record
        split = record.get("split")
        if isinstance(split, str) and split in _SPLITS:
            last.setdefault(split, record)
        if len(last) == len(_SPLITS):
            break
    if unreadable or (not last and any(line.strip() for line in lines)):
        damaged.append(log.name)
    return last.get("train", {}), last.get("valid", {})


def _record(line: bytes) -> Mapping[str, Any]:
    try:
        record = mapping(json.loads(line))
    except (ValueError, RecursionError):
        return {}
    return record if number(record.get("step")) is not None else {}


def _times(path: Location) -> Mapping[str, float]:
    """Return when files of a run directory were last written, in seconds since the epoch, by name.

    They are those of the run itself, as far as they can be looked at, and the manifests of its checkpoints.
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
    found: TaskMetrics = {}
    for name, values in tasks.items():
        found[name] = {
            key: None if number(value) is None else value
            for key, value in values.items()
            if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        }
        if isinstance(exact := values.get("gauc_exact"), bool):
            found[name]["gauc_error_bound"] = 0.0 if exact else _half_width(values)
    return found


def _half_width(values: Mapping[str, Any]) -> float:
    """Of an interval that holds GAUC; infinite where nothing can be said."""
    span, middle = values.get("gauc_interval"), number(values.get("gauc"))
    ends = [number(end) for end in span] if isinstance(span, list) else []
    known = [abs(end - middle) for end in ends if end is not None and middle is not None]
    return max(known) if len(known) == 2 else math.inf


def _step(record: Mapping[str, Any]) -> int:
    return round(number(record.get("step")) or 0)


def _whole(value: object) -> int | None:
    found = number(value)
    return None if found is None else round(found)
