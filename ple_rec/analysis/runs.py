"""`ple-rec runs`: the runs below a folder, a line each, with their metrics. Needs no torch."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ple_rec.analysis.better import badness
from ple_rec.analysis.find_runs import RUNS, find_runs
from ple_rec.analysis.run_record import RunRecord, TaskMetrics, read_record
from ple_rec.errors import UserError
from ple_rec.train.report.units import short_count
from ple_rec.train.results import COLUMNS, MISSING, aligned, mapping, split_tasks

NEWEST = "age"
_NOT_FINAL = "*"  # marks the metrics of a run that has not finished
_MAIN = ("auc", "rmse")  # one of them leads a task's columns
_HEADINGS = {column.key: column.heading for column in COLUMNS}
_TEXTS = {column.key: column.text for column in COLUMNS}
_WORDS = ("variant", "status")  # columns that read from the left
_NAMED = 8  # columns that a footnote names
_ALWAYS = (0, 0)  # rank of a column that is never left out
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
    """

    directory: Path
    runs: tuple[RunRecord, ...]
    split: str
    sort: str
    now: float

    def name(self, run: RunRecord) -> str:
        """Its path below the directory; the directory's own name where it is the run itself."""
        return run.path.name or "." if run.path == self.directory else str(run.path.relative_to(self.directory))

    def tasks(self, run: RunRecord) -> TaskMetrics:
        """The final metrics of a run, or those of its last validation record where it has none."""
        return run.tasks(self.split) or run.last_validation()


@dataclass(frozen=True)
class _Column:
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


def list_runs(directory: str, *, text: str = "", sort: str = NEWEST, split: str = "test", now: float) -> Listing:
    """Find and read the runs below a directory.

    Args:
        directory: A path, or a name under `runs/`; it is searched, or is a run itself.
        text: Runs whose name, variant or status does not contain it are left out.
        sort: Key of a column, or `TASK.METRIC` of any recorded metric; the best, or newest, run comes first.
        split: Whose metrics.
        now: Seconds since the epoch.

    Raises:
        UserError: there is no such directory, or no such key.
    """
    folder = _folder(directory)
    records = sorted(map(read_record, find_runs(folder)), key=lambda run: -run.changed)
    listing = Listing(folder, tuple(records), split, sort, now)
    wanted = text.lower()
    kept = [run for run in records if wanted in f"{listing.name(run)} {run.variant} {run.status}".lower()]
    if not kept:
        return Listing(folder, (), split, sort, now)
    columns = {column.key: column for column in _columns(listing, every=True)}
    if sort not in columns:
        raise _unknown_key(sort, list(columns), [column.key for column in _columns(listing)])
    order = columns[sort].order
    known = [(value, run) for run in kept if (value := order(run)) is not None]
    known.sort(key=lambda pair: pair[0])  # stable: the newest first among equals
    ordered = (*(run for _, run in known), *(run for run in kept if order(run) is None))
    return Listing(folder, ordered, split, sort, now)


def format_runs(listing: Listing, width: int) -> str:
    """A line for each run, aligned, and footnotes on what the table does not show.

    Args:
        listing: The runs.
        width: Characters that a line may have; columns that do not fit are left out, and named.

    Returns:
        Text without a trailing newline; one sentence where there are no runs.
    """
    if not listing.runs:
        return f"no runs in {listing.directory}"
    shown, left_out = _columns(listing), []
    lines = _table(listing, shown)
    while max(map(len, lines)) > width:
        last = max(shown, key=lambda column: column.rank)
        if last.rank == _ALWAYS:
            break
        shown.remove(last)
        left_out.append(last.key)
        lines = _table(listing, shown)
    notes = []
    if any(_NOT_FINAL in line for line in lines[1:]):
        notes.append(f"{_NOT_FINAL} last validation record of a run without final metrics on {listing.split}")
    if left_out:
        left_out.reverse()
        more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
        notes.append(f"left out, beyond {width} characters: {', '.join(left_out[:_NAMED])}{more}; --json has all")
    if damaged := [f"{listing.name(run)}/{name}" for run in listing.runs for name in run.damaged]:
        notes.append(f"damaged, and left out: {', '.join(damaged)}")
    return "\n".join([*lines, *notes])


def runs_json(listing: Listing) -> str:
    """All that is known of each run, as a JSON array.

    `[{"run", "path", "name", "variant", "seed", "status", "step", "total_steps", "best_step", "samples_per_second",
    "changed", "splits": {split: {task: {metric: value}}}, "last_validation": {task: {metric: value}}, "damaged"}, ..]`
    """
    return json.dumps([_content(listing, run) for run in listing.runs], indent=1)


def _content(listing: Listing, run: RunRecord) -> dict[str, Any]:
    return {
        "run": listing.name(run),
        "path": str(run.path),
        "name": run.config.get("name"),
        "variant": run.variant,
        "seed": run.config.get("seed"),
        "status": run.status,
        "step": run.step,
        "total_steps": run.total_steps,
        "best_step": run.best_step,
        "samples_per_second": run.samples_per_second,
        "changed": datetime.fromtimestamp(int(run.changed), tz=UTC).isoformat(),
        "splits": {split: tasks for split in ("valid", "test") if (tasks := split_tasks(run.metrics, split))},
        "last_validation": mapping(run.valid.get("tasks")),
        "damaged": list(run.damaged),
    }


def _folder(text: str) -> Path:
    for path in (Path(text), RUNS / text):
        if path.is_dir():
            return path
    raise UserError(
        text,
        "is a file" if Path(text).exists() else "no such directory",
        "it is searched for runs",
        f"name a folder with runs in it, or a run by its path or its name under {RUNS}/",
    )


def _unknown_key(sort: str, every: Sequence[str], shown: Sequence[str]) -> UserError:
    from ple_rec.config.words import suggestion  # imports pydantic

    near = [key for key in difflib.get_close_matches(sort, every, n=1) if key not in shown]
    fix = "use one of these, or TASK.METRIC of any recorded metric"
    return UserError("--sort", f'unknown key "{sort}"', suggestion(sort, [*near, *shown]), fix)


def _columns(listing: Listing, *, every: bool = False) -> list[_Column]:
    """The columns from left to right; `every` has one for each recorded metric, and none is ever left out."""
    columns = [
        _Column("run", ("", "run"), listing.name, listing.name, _ALWAYS),
        _Column("variant", ("", "variant"), _variant, lambda run: run.variant, (2, 0)),
        _Column("status", ("", "status"), lambda run: run.status, lambda run: run.status, _ALWAYS),
        _Column("step", ("", "step"), _progress, lambda run: _falling(run.step), (2, 1)),
        _Column("best", ("", "best"), lambda run: _count(run.best_step), lambda run: _falling(run.best_step), (6, 0)),
        *_metric_columns(listing, every),
        _Column("samples/s", ("", "samples/s"), _speed, lambda run: _falling(run.samples_per_second), (5, 0)),
        _Column("age", ("", "age"), lambda run: _age(listing.now - run.changed), lambda run: -run.changed, (1, 1)),
    ]
    # What the runs are sorted by is never left out.
    return [replace(c, rank=_ALWAYS) if c.key == listing.sort != NEWEST else c for c in columns]


def _metric_columns(listing: Listing, every: bool) -> list[_Column]:
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


def _metric_column(listing: Listing, task: str, metric: str, rank: tuple[int, int]) -> _Column:
    def value(run: RunRecord) -> float | None:
        return listing.tasks(run).get(task, {}).get(metric)

    def cell(run: RunRecord) -> str:
        found = value(run)
        if found is None:
            return MISSING
        return _TEXTS[metric](found) + ("" if run.tasks(listing.split) else _NOT_FINAL)

    def order(run: RunRecord) -> float | None:
        found = value(run)
        if found is None:
            return None
        bad = badness(metric, found)
        return -found if bad is None else bad

    return _Column(f"{task}.{metric}", (task, _HEADINGS[metric]), cell, order, rank)


def _table(listing: Listing, columns: Sequence[_Column]) -> list[str]:
    """Two lines of heading, then one for each run."""
    cells = []
    for i, column in enumerate(columns):
        task, heading = column.headings
        if i > 0 and columns[i - 1].headings[0] == task:
            task = ""  # its name stands above the first of its columns
        texts = [column.cell(run) for run in listing.runs]
        if any(text.endswith(_NOT_FINAL) for text in texts):  # digits stay below digits
            texts = [text if text.endswith(_NOT_FINAL) else f"{text} " for text in texts]
        texts = [task, heading, *texts]
        cells.append([text.ljust(max(map(len, texts))) for text in texts] if column.key in _WORDS else texts)
    cells[0][0] = listing.split
    return [line.rstrip() for line in aligned(list(zip(*cells, strict=True))).split("\n")]


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
