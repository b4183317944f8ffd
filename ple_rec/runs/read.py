"""Lenient reader of the files of a run, for reports and lists: a missing or damaged file counts as empty.

A run that was killed, or that still trains, has missing and incomplete files.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ple_rec.config.plan import read_placements
from ple_rec.errors import UserError
from ple_rec.runs.layout import ANALYSIS, CONFIG, INIT, LOG, METRICS, PLAN
from ple_rec.storage import Location, modified_at
from ple_rec.text.json_values import as_mapping, as_number

if TYPE_CHECKING:
    from ple_rec.runs.log import RunLog

# What is unknown without a file.
_CONSEQUENCES = {
    CONFIG: "variant, data set and configuration are unknown",
    PLAN: "the placement of the embedding tables is unknown",
    LOG: "there are no learning curves and no throughput",
    METRICS: "the run was interrupted or still goes on, so there are no final results",
    INIT: "where its first weights came from is unknown",
}
# Text that is in every record of a split. Lines of `train.jsonl` without it are not parsed.
_SPLIT_MARKS = {"train": b'"train"', "valid": b'"valid"'}

# Parsers of JSON and TOML raise these, also for an integer of thousands of digits and for nesting that is too deep.
_PARSE_ERRORS = (ValueError, RecursionError)


class RunFiles:
    """Files of a run directory, each read at its first use. A missing or damaged file counts as empty.

    Args:
        directory: Run directory.

    Attributes:
        damage: Description of the damage of each damaged file among those read so far, by its name.
    """

    def __init__(self, directory: Location) -> None:
        self.directory = directory
        self.damage: dict[str, str] = {}

    @cached_property
    def config_text(self) -> str:
        """Text of `config.toml`."""
        return (self._read_bytes(CONFIG) or b"").decode("utf-8", errors="replace")

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Content of `config.toml`."""
        return self._read_object(CONFIG, tomllib.loads)

    @cached_property
    def plan(self) -> Mapping[str, Any]:
        """World size and placement of each table, from `plan.json`."""
        return read_placements(self._read_object(PLAN))

    @cached_property
    def start(self) -> Mapping[str, Any]:
        """Content of `init_from.json`: the checkpoint whose weights the run started from; empty for random weights."""
        return self._read_object(INIT)

    @cached_property
    def metrics(self) -> Mapping[str, Any]:
        """Content of `metrics.json`."""
        return self._read_object(METRICS)

    @cached_property
    def analysis(self) -> Mapping[str, Any]:
        """Content of `analysis.json`."""
        return self._read_object(ANALYSIS)

    @cached_property
    def log(self) -> RunLog:
        """Records of `train.jsonl` without the damaged ones."""
        # This module imports numpy, which listings of runs do not need.
        from ple_rec.runs.log import RunLog

        log = RunLog()
        for record in filter(None, self.records):
            log.add(record)
        return log

    @cached_property
    def log_written(self) -> datetime | None:
        """Time of the last change of `train.jsonl`, to the second; None without the file, or without a known time."""
        written = modified_at(self.directory / LOG) if (self.directory / LOG).is_file() else None
        return None if written is None else written.replace(microsecond=0)

    @cached_property
    def records(self) -> list[Mapping[str, Any] | None]:
        """Record of each line of `train.jsonl`: empty for a blank line, None for a damaged one."""
        return [_parse_record(line) if line.strip() else {} for line in (self._read_bytes(LOG) or b"").split(b"\n")]

    def last_records(self) -> dict[str, Mapping[str, Any]]:
        """Return the last training and the last validation record, by split, without parsing all lines of the log.

        Lines are parsed from the end of the file until both records are found.
        """
        # A line without a newline at its end may be incomplete.
        *lines, _ = (self._read_bytes(LOG) or b"").split(b"\n")
        last: dict[str, Mapping[str, Any]] = {}
        damaged = False
        for line in reversed(lines):
            if not any(split not in last and mark in line for split, mark in _SPLIT_MARKS.items()):
                continue
            record = _parse_record(line)
            damaged |= record is None
            if record is not None and record["split"] in _SPLIT_MARKS:
                last.setdefault(record["split"], record)
            if len(last) == len(_SPLIT_MARKS):
                break
        if damaged or (not last and any(line.strip() for line in lines)):
            self.damage[LOG] = "it has damaged lines"
        return last

    def evaluation_part(self, key: str) -> tuple[str, Any]:
        """Return split and value of a key in the final metrics of test, or else of valid; test and None if absent."""
        known = (split for split in ("test", "valid") if as_mapping(self.metrics.get(split)).get(key) is not None)
        split = next(known, "test")
        return split, as_mapping(self.metrics.get(split)).get(key)

    def best_step(self) -> float | None:
        """Return the step of the best checkpoint by `metrics.json`, or else by the log; None if neither has it."""
        recorded = as_number(self.metrics.get("best_step"))
        marked = [record["step"] for record in self.log.splits.get("valid", []) if record.get("best") is True]
        return recorded if recorded is not None or not marked else float(marked[-1])

    @property
    def notes(self) -> list[str]:
        """Sentences about missing and damaged files, and about resumed training; reads all files but the analysis."""
        files = {CONFIG: self.config, PLAN: self.plan, INIT: self.start, LOG: self.log, METRICS: self.metrics}
        notes = []
        for name in files:
            if name in self.damage:
                rest = "; it is shown as it stands" if name == CONFIG else f", and was left out: {_CONSEQUENCES[name]}"
                notes.append(f"{name} is damaged ({self.damage[name]}){rest}.")
            elif (self.directory / name).is_file():
                notes += self._log_notes() if name == LOG else []
            # A run that starts from random weights has no `init_from.json`.
            elif name != INIT:
                notes.append(f"{name} is missing: {_CONSEQUENCES[name]}.")
        return notes

    def _log_notes(self) -> list[str]:
        notes = []
        damaged = [index for index, record in enumerate(self.records, start=1) if record is None]
        if self.records[-1] is None:
            notes.append(f"The last line of {LOG} is cut off (the run was killed while writing it); skipped.")
            damaged.pop()
        if damaged:
            listed = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
            notes.append(f"{len(damaged)} damaged line(s) of {LOG} were skipped: line {listed}.")
        if not self.log.splits:
            notes.append(f"{LOG} has no records yet: {_CONSEQUENCES[LOG]}.")
        for step in self.log.rewinds:
            notes.append(f"The run was resumed: records from step {step:,} on replace those of the attempt before.")
        return notes

    def _read_object(self, name: str, parse: Callable[[str], Any] = json.loads) -> Mapping[str, Any]:
        content = self._read_bytes(name)
        if content is None:
            return {}
        try:
            value = parse(content.decode())
        except _PARSE_ERRORS as error:
            self.damage[name] = str(error)
            return {}
        if not isinstance(value, dict):
            self.damage[name] = f"it holds a {type(value).__name__}, not an object"
        return as_mapping(value)

    def _read_bytes(self, name: str) -> bytes | None:
        try:
            return (self.directory / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self.damage[name] = str(error.strerror or error)
            return None


def read_run(directory: Location) -> RunFiles:
    """Return the files of a run directory.

    Raises:
        UserError: The directory has none of `config.toml`, `plan.json`, `train.jsonl` and `metrics.json`.
    """
    names = [name for name in _CONSEQUENCES if name != INIT]
    if not any((directory / name).is_file() for name in names):
        raise UserError(
            place=str(directory),
            value="holds none of " + ", ".join(names) if directory.is_dir() else "is not a directory",
            rule="a report is made from a run directory",
            fix="give the directory that training wrote, such as runs/<name>",
        )
    return RunFiles(directory)


def _parse_record(line: bytes) -> Mapping[str, Any] | None:
    """Return the record of a line; None for an incomplete or damaged line."""
    try:
        record = json.loads(line)
    except _PARSE_ERRORS:
        return None
    if (
        not isinstance(record, dict)
        or as_number(record.get("step")) is None
        or not isinstance(record.get("split"), str)
    ):
        return None
    return record
