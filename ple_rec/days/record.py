"""Record of a day: `records/<day>.json` of a chain, what `ple-rec daily --json` prints, and its text for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from ple_rec.config.daily import GateMetric
from ple_rec.errors import DataError
from ple_rec.storage import Location, explain_errors, make_directory, write_text

Verdict = Literal["accepted", "published", "refused"]


@dataclass(frozen=True)
class Difference:
    """Difference of the candidate to the served version in one metric of a task, on the same held-out rows.

    Args:
        task: Name of the task.
        metric: "auc", "ne" or "mse".
        served: Metric of the served version; None if it is undefined.
        candidate: Metric of the candidate; None if it is undefined.
        gain: Difference by which the candidate is better; below 0 if it is worse, None if a metric is undefined.
        interval: 95 % interval of the gain over resampled groups of rows; None if there are too few groups.
        rows: Number of rows in the task's sample space.
        positives: Number of positives among them; for a regression, the number of rows.
        margin: Declared margin; None if the configuration has none for this metric.
        is_judged: True if the margin decides about the candidate: there are enough positives, and an interval.
    """

    task: str
    metric: GateMetric
    served: float | None
    candidate: float | None
    gain: float | None
    interval: tuple[float, float] | None
    rows: int
    positives: int
    margin: float | None = None
    is_judged: bool = False


@dataclass(frozen=True)
class DayRecord:
    """Record of a day.

    Args:
        day: Date of the day, which is the last training day of the dataset.
        name: Name of the day's folders in the chain: its date, or `first`.
        verdict: "published" or "refused"; "accepted" between the gate and the end of the publication.
        reasons: Sentences that say why the gate has refused the candidate; empty unless it has.
        dataset: Directory of the dataset.
        run: Directory of the run.
        started_from: Run and checkpoint from which the run started, `RUN:CHECKPOINT`; None for random weights.
        rows: Number of rows of the dataset, by split.
        tables: Number of values that have a row, by embedding table.
        compared_with: Version that was served before the day, such as `v3`; None if there was none.
        differences: Differences of the candidate to that version.
        version: Folder of the published version. That of an accepted day is still to be written; None after a refusal.
        form: "whole" or "delta"; None unless it is published.
        bytes: Size of the published version; None unless it is published.
        seconds: Duration of each step in this command: prepare, train, export.
        notes: Sentences about choices, such as a whole version in place of a delta.
    """

    day: str
    name: str
    verdict: Verdict
    reasons: tuple[str, ...]
    dataset: str
    run: str
    started_from: str | None
    rows: Mapping[str, int]
    tables: Mapping[str, int]
    compared_with: str | None
    differences: tuple[Difference, ...]
    version: str | None
    form: str | None
    bytes: int | None
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()

    def published(self, version: str, form: str, size: int, seconds: Mapping[str, float]) -> Self:
        """Return the record of an accepted day that is now published."""
        return replace(self, verdict="published", version=version, form=form, bytes=size, seconds=seconds)

    def to_json(self) -> dict[str, Any]:
        """Return the content of the record's file."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the record that a file holds."""
        differences = tuple(
            Difference(**each | {"interval": each["interval"] and tuple(each["interval"])})
            for each in content["differences"]
        )
        return cls(
            **dict(content) | {key: tuple(content[key]) for key in ("reasons", "notes")} | {"differences": differences}
        )

    def __str__(self) -> str:
        """Return the record as text."""
        started = "random weights" if self.started_from is None else self.started_from
        tables = ", ".join(f"{name} {count:,}" for name, count in self.tables.items())
        splits = ", ".join(f"{split} {count:,}" for split, count in self.rows.items())
        lines = [
            f"day {self.day}: {splits} rows; values in tables: {tables}",
            f"trained from {started}",
        ]
        if self.compared_with is not None:
            lines.append(f"on the held-out rows of the day, against {self.compared_with}:")
            lines += [f"  {difference_text(each)}" for each in self.differences]
        lines += [f"note: {note}" for note in self.notes]
        if self.verdict == "refused":
            lines += ["refused:", *(f"  {reason}" for reason in self.reasons), f"{self.compared_with} stays served"]
        elif self.verdict == "published":
            lines.append(f"published: {self.version} ({self.form}, {self.bytes:,} bytes)")
        return "\n".join(lines)


def difference_text(each: Difference) -> str:
    """Return a line about a difference: values, gain with its interval, and the margin if it decides."""
    head = f"{each.task} {each.metric}"
    if each.gain is None or each.served is None or each.candidate is None:
        return f"{head}: undefined on {each.rows:,} rows"
    interval = "no interval" if each.interval is None else f"{each.interval[0]:+.4f} to {each.interval[1]:+.4f}"
    text = f"{head} {each.served:.4f} -> {each.candidate:.4f}, gain {each.gain:+.4f} ({interval})"
    if each.margin is None:
        return text
    return f"{text}, margin {each.margin:g}{'' if each.is_judged else ', not judged: too few rows or positives'}"


def write_record(file: Location, record: DayRecord) -> None:
    """Write the record of a day.

    Raises:
        UserError: The file cannot be written.
    """
    with explain_errors(file, "written", "the record of the day lies there"):
        make_directory(file.parent)
        write_text(file, json.dumps(record.to_json(), indent=1))


def read_record(file: Location) -> DayRecord | None:
    """Return the record of a day; None if there is none.

    Raises:
        DataError: The file is damaged.
        UserError: The file cannot be read.
    """
    with explain_errors(file, "read", "the record of a day lies there"):
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
    try:
        return DayRecord.from_json(json.loads(text))
    except (ValueError, LookupError, TypeError) as error:
        fix = "remove it; the day is then open again, and the same command goes on with it"
        raise DataError(str(file), "damaged", "`ple-rec daily` writes it", fix) from error
