"""Runs in order, and the columns in which each is shown. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ple_rec.analysis.run_record import RunRecord, TaskMetrics
from ple_rec.train.better import badness
from ple_rec.train.report.units import short_count
from ple_rec.train.results import COLUMNS, MISSING

NEWEST = "age"
NOT_FINAL = "*"  # marks the metrics of a run that has not finished
ALWAYS = (0, 0)  # rank of a column that is never left out
_MAIN = ("auc", "rmse")  # one of them leads a task's columns
_HEADINGS = {column.key: column.heading for column in COLUMNS}
_TEXTS = {column.key: column.text for column in COLUMNS}
_SPANS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True)
class Listing:
    """Runs in the order in which they are shown.

    Args:
        directory: Below which they lie.
        runs: What each says.
        split: Whose final metrics are shown.
        sort: The key by which they are in order.
        now: Seconds since the epoch.
        text: What each of them contains in its name, variant or status.
        unreadable: Folders that could not be searched.
    """

    directory: Path
    runs: tuple[RunRecord, ...]
    split: str
    sort: str
    now: float
    text: str = ""
    unreadable: tuple[Path, ...] = ()

    def name(self, run: RunRecord) -> str:
        """Its path below the directory; the directory's own name where it is the run itself."""
        return run.path.name or "." if run.path == self.directory else str(run.path.relative_to(self.directory))

    def tasks(self, run: RunRecord) -> TaskMetrics:
        """The final metrics of a run, or those of its last validation record where it has none."""
        return run.tasks(self.split) or run.last_validation


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Args:
        key: By which `--sort` names it.
        headings: Its two lines of heading.
        cell: Of a run.
        order: Of a run, the lower the earlier it stands; None stands last.
        rank: Columns of a higher rank are left out first.
    """

    key: str
    headings: tuple[str, str]
    cell: Callable[[RunRecord], str]
    order: Callable[[RunRecord], Any]
    rank: tuple[int, int]


def columns_of(listing: Listing, *, every: bool = False) -> list[Column]:
    """The columns from left to right; `every` has one for each recorded metric, as keys to sort by."""
    columns = [
        Column("run", ("", "run"), listing.name, listing.name, ALWAYS),
        Column("variant", ("", "variant"), _variant, lambda run: run.variant, (2, 0)),
        Column("status", ("", "status"), lambda run: run.status, lambda run: run.status, ALWAYS),
        Column("step", ("", "step"), _progress, lambda run: _falling(run.step), (2, 1)),
        Column("best", ("", "best"), lambda run: _count(run.best_step), lambda run: _falling(run.best_step), (6, 0)),
        *_metric_columns(listing, every),
        Column("samples/s", ("", "samples/s"), _speed, lambda run: _falling(run.samples_per_second), (5, 0)),
        Column("age", ("", "age"), lambda run: _age(listing.now - run.changed), lambda run: -run.changed, (1, 1)),
    ]
    # What the runs are sorted by is never left out.
    return [replace(c, rank=ALWAYS) if c.key == listing.sort != NEWEST else c for c in columns]


def _metric_columns(listing: Listing, every: bool) -> list[Column]:
    recorded: dict[str, dict[str, None]] = {}
    for run in listing.runs:
        for task, values in listing.tasks(run).items():
            recorded.setdefault(task, {}).update(dict.fromkeys(values))
    columns = []
    for place, (task, known) in enumerate(recorded.items()):
        for metric in (column.key for column in COLUMNS if column.key in known):
            main = metric in _MAIN
            if every or main or metric == "gauc" or f"{task}.{metric}" == listing.sort:
                rank = (1, 0) if main and place == 0 else (3, place) if main else (4, place)
                columns.append(_metric_column(listing, task, metric, rank))
    return columns


def _metric_column(listing: Listing, task: str, metric: str, rank: tuple[int, int]) -> Column:
    def value(run: RunRecord) -> float | None:
        return listing.tasks(run).get(task, {}).get(metric)

    def cell(run: RunRecord) -> str:
        found = value(run)
        if found is None:
            return MISSING
        return _TEXTS[metric](found) + ("" if run.tasks(listing.split) else NOT_FINAL)

    def order(run: RunRecord) -> tuple[bool, float] | None:
        found = value(run)
        if found is None:
            return None
        bad = badness(metric, found)
        # Figures of another split, of a run that still changes, are no rivals of final ones.
        return not run.tasks(listing.split), -found if bad is None else bad

    return Column(f"{task}.{metric}", (task, _HEADINGS[metric]), cell, order, rank)


def _variant(run: RunRecord) -> str:
    return run.variant or MISSING


def _progress(run: RunRecord) -> str:
    if run.step is None or run.total_steps in (None, run.step):
        return _count(run.step)
    return f"{run.step:,}/{run.total_steps:,}"


def _speed(run: RunRecord) -> str:
    return MISSING if run.samples_per_second is None else short_count(round(run.samples_per_second))


def _count(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def _falling(value: float | None) -> float | None:
    return None if value is None else -value


def _age(seconds: float) -> str:
    """A time span in its largest unit: `5 min`, `3 h`, `2 d`."""
    size, unit = next(((size, unit) for size, unit in _SPANS if seconds >= size), _SPANS[-1])
    return f"{max(int(seconds // size), 0)} {unit}"
