"""What a run directory holds, read leniently: a run that was killed still has a story to tell."""

from __future__ import annotations

import bisect
import json
import tomllib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ple_rec.config.plan import placements
from ple_rec.errors import UserError
from ple_rec.runs.layout import CONFIG, INIT, LOG, METRICS, PLAN
from ple_rec.runs.results import mapping, number
from ple_rec.storage import Location, modified_at

_ABSENT = {
    CONFIG: "variant, data set and configuration are unknown",
    PLAN: "the placement of the embedding tables is unknown",
    LOG: "there are no learning curves and no throughput",
    METRICS: "the run was interrupted or still goes on, so there are no final results",
    INIT: "where its first weights came from is unknown",
}

# What a parser of JSON or TOML raises: a syntax error, an integer of thousands of digits, nesting that is too deep.
_DAMAGES = (ValueError, RecursionError)

Record = dict[str, Any]


@dataclass(frozen=True)
class Series:
    """A quantity over training steps: `steps` and `values`, both (N,); an undefined value is NaN."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]

    def __bool__(self) -> bool:
        """Whether there is any finite value to draw."""
        return bool(np.isfinite(self.values).any())

    def at(self, step: float | None) -> float | None:
        """The value at exactly this step, or None."""
        hits = self.values[self.steps == step] if step is not None else self.values[:0]
        return float(hits[-1]) if hits.size and np.isfinite(hits[-1]) else None


@dataclass
class RunLog:
    """The records of `train.jsonl` by split, each list ascending in step."""

    splits: dict[str, list[Record]] = field(default_factory=dict)
    rewinds: list[int] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Add one record in file order.

        A training record whose step is not beyond the last one comes from a resumed run: what the earlier attempt wrote
        from that step on is superseded. An evaluation replaces an earlier one of the same split and step.
        """
        step, split = record["step"], record["split"]
        records = self.splits.setdefault(split, [])
        if split == "train" and records and step <= records[-1]["step"]:
            self.rewinds.append(step)
            for rows in self.splits.values():
                del rows[bisect.bisect_left(rows, step, key=_step) :]
        place = bisect.bisect_left(records, step, key=_step)
        if place < len(records) and records[place]["step"] == step:
            del records[place]
        records.insert(place, record)

    def series(self, split: str, *path: str) -> Series:
        """One quantity of one split over steps; `path` leads to it, as in `series("valid", "tasks", "ctr", "auc")`."""
        records = self.splits.get(split, [])
        values = []
        for record in records:
            value: object = record
            for key in path:
                value = mapping(value).get(key)
            found = number(value)
            values.append(np.nan if found is None else found)
        return Series(np.array([record["step"] for record in records], dtype=float), np.array(values, dtype=float))

    def last(self, split: str) -> Record:
        """The latest record of a split; empty where there is none."""
        return self.splits.get(split, [{}])[-1] if self.splits.get(split) else {}

    def tasks(self) -> list[str]:
        """Every task that a record names, in order of appearance."""
        names = (name for rows in self.splits.values() for record in rows for name in mapping(record.get("tasks")))
        return list(dict.fromkeys(names))


@dataclass
class RunFiles:
    """The files of a run directory; what is absent is empty, and `notes` says in plain words what is missing or odd."""

    directory: Location
    config_text: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    start: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    log: RunLog = field(default_factory=RunLog)
    log_written: datetime | None = None
    notes: list[str] = field(default_factory=list)

    def evaluated(self, key: str) -> tuple[str, Any]:
        """A part of the final evaluations and its split: of test, else of validation; None where neither has it."""
        there = (split for split in ("test", "valid") if mapping(self.metrics.get(split)).get(key) is not None)
        split = next(there, "test")
        return split, mapping(self.metrics.get(split)).get(key)

    def best_step(self) -> float | None:
        """Step of the best checkpoint: from `metrics.json`, else of the last evaluation that the log calls best."""
        known = number(self.metrics.get("best_step"))
        marked = [record["step"] for record in self.log.splits.get("valid", []) if record.get("best") is True]
        return known if known is not None or not marked else float(marked[-1])


def read_run(directory: Location) -> RunFiles:
    """Read `config.toml`, `plan.json`, `train.jsonl` and `metrics.json`; any may be absent or damaged, but not all.

    Raises:
        UserError: `directory` holds none of the four files.
    """
    needed = [name for name in _ABSENT if name != INIT]
    if not any((directory / name).is_file() for name in needed):
        raise UserError(
            place=str(directory),
            value="holds none of " + ", ".join(needed) if directory.is_dir() else "is not a directory",
            rule="a report is made from a run directory",
            fix="give the directory that training wrote, such as runs/<name>",
        )
    run = RunFiles(directory)
    run.config_text = _text(run, CONFIG)
    try:
        run.config = tomllib.loads(run.config_text)
    except _DAMAGES as error:
        run.notes.append(f"{CONFIG} is damaged ({error}); it is shown as it stands.")
    run.plan = placements(_json(run, PLAN))
    if (directory / INIT).exists():  # only a run that did not start from random weights has it
        run.start = _json(run, INIT)
    _read_log(run)
    run.metrics = _json(run, METRICS)
    return run


def _step(record: Record) -> float:
    step: float = record["step"]
    return step


def _text(run: RunFiles, name: str) -> str:
    path = run.directory / name
    if not path.is_file():
        run.notes.append(f"{name} is missing: {_ABSENT[name]}.")
        return ""
    return path.read_bytes().decode("utf-8", errors="replace")


def _json(run: RunFiles, name: str) -> dict[str, Any]:
    text = _text(run, name)
    if not (run.directory / name).is_file():
        return {}
    try:
        content = json.loads(text)
    except _DAMAGES as error:
        run.notes.append(f"{name} is damaged ({error}), and was left out: {_ABSENT[name]}.")
        return {}
    if not isinstance(content, dict):
        run.notes.append(f"{name} holds a {type(content).__name__}, not an object, and was left out: {_ABSENT[name]}.")
        return {}
    return content


def _read_log(run: RunFiles) -> None:
    text = _text(run, LOG)
    path = run.directory / LOG
    if not path.is_file():
        return
    written = modified_at(path)
    run.log_written = None if written is None else written.replace(microsecond=0)
    lines = text.split("\n")
    damaged = []
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _record(line)
        if record is not None:
            run.log.add(record)
        elif line_number == len(lines):
            run.notes.append(f"The last line of {LOG} is cut off (the run was killed while writing it); skipped.")
        else:
            damaged.append(line_number)
    if damaged:
        shown = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
        run.notes.append(f"{len(damaged)} damaged line(s) of {LOG} were skipped: line {shown}.")
    if not run.log.splits:
        run.notes.append(f"{LOG} has no records yet: {_ABSENT[LOG]}.")
    for step in run.log.rewinds:
        run.notes.append(f"The run was resumed: records from step {step:,} on replace those of the attempt before.")


def _record(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except _DAMAGES:
        return None
    if not isinstance(record, dict) or number(record.get("step")) is None or not isinstance(record.get("split"), str):
        return None
    return record
