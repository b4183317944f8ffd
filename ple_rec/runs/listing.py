"""Table of the runs below a folder, for `ple-rec runs`.

`list_runs` finds, reads and sorts the runs; `format_runs` and `runs_json` turn them into text. The module does not
import torch, so the command starts fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ple_rec.config.metrics import GAUCS, METRICS, Metric
from ple_rec.errors import UserError
from ple_rec.runs.find import RUNS, find_runs, is_folder, path_exists, possible_places
from ple_rec.runs.metrics import split_tasks
from ple_rec.runs.record import RunRecord, TaskMetrics, read_record
from ple_rec.runs.results import MISSING
from ple_rec.storage import Location, is_remote, map_concurrently
from ple_rec.text import cut_middle, fit_table, printable
from ple_rec.text.json_values import as_mapping
from ple_rec.text.plain import first_names_text, json_text, wrap_text
from ple_rec.text.units import short_count

# Key of the column by which runs are sorted if no other one is named.
NEWEST = "age"
# Sign before a metric of the last validation record, for a run without final metrics on the split.
NOT_FINAL = "*"
# The table has columns for these metrics; `--sort` takes all metrics.
_DEFAULT_METRICS = ("auc", *GAUCS, "rmse")
# Seconds and name of each unit of an age.
_TIME_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True)
class Listing:
    """Runs in the order of the table.

    Args:
        directory: Folder that was searched.
        runs: Record of each run.
        split: Split whose final metrics are shown.
        sort: Key of the column that the runs are sorted by.
        now: Present time, in seconds since the epoch.
        text: Text that the name, variant or status of each run contains.
        unreadable: Folders that could not be searched.
    """

    directory: Location
    runs: tuple[RunRecord, ...]
    split: str
    sort: str
    now: float
    text: str = ""
    unreadable: tuple[Path, ...] = ()

    def name(self, run: RunRecord) -> str:
        """Return the path of a run below the directory; the name of the directory if it is the run itself."""
        if run.path == self.directory:
            return run.path.name or "."
        return str(run.path).removeprefix(f"{self.directory}/")

    def tasks(self, run: RunRecord) -> TaskMetrics:
        """Return the final metrics of a run on the split, or those of its last validation record if it has none."""
        return run.tasks(self.split) or run.last_validation


@dataclass(frozen=True)
class ListingColumn:
    """Column of the table.

    Args:
        key: Key for `--sort`.
        heading: Heading of the column.
        cell: Function that returns the text of a run.
        sort_value: Function that returns the value by which a run is sorted: smaller ones first, None last.
        task: Task of a metric, written above the headings of its columns; empty for other columns.
    """

    key: str
    heading: str
    cell: Callable[[RunRecord], str]
    sort_value: Callable[[RunRecord], Any]
    task: str = ""


def list_runs(directory: str, *, text: str = "", sort: str = NEWEST, split: str = "test", now: float) -> Listing:
    """Find and read the runs below a directory.

    Args:
        directory: Path or name under `runs/` of the folder to search, or of a run.
        text: Text that the name, variant or status of a run must contain; empty for all runs.
        sort: Key of a column, or `TASK.METRIC` of any recorded metric. Texts are sorted alphabetically; otherwise the
            newest run, the best metric or the largest number comes first. With a metric, runs without final metrics on
            the split come after the others.
        split: Split whose final metrics are shown.
        now: Present time, in seconds since the epoch.

    Raises:
        UserError: There is no such directory or key, or its store cannot be read.
    """
    folder, unreadable = _find_folder(directory), list[Path]()
    paths = find_runs(folder, unreadable)
    records = map_concurrently(read_record, paths) if is_remote(folder) else list(map(read_record, paths))
    records.sort(key=lambda run: -run.changed)
    listing = Listing(folder, tuple(records), split, sort, now, text, tuple(unreadable))
    if not records:
        return listing
    columns = {column.key: column for column in [*listing_columns(listing), *metric_columns(listing)]}
    if sort not in columns:
        raise _unknown_key(sort, listing, list(columns))
    matching = [run for run in records if text.lower() in f"{listing.name(run)} {run.variant} {run.status}".lower()]
    sort_values = [(columns[sort].sort_value(run), run) for run in matching]
    # Sorting is stable, so runs with equal values stay in the order of their age.
    known = sorted((pair for pair in sort_values if pair[0] is not None), key=lambda pair: pair[0])
    ordered = (*(run for _, run in known), *(run for value, run in sort_values if value is None))
    return replace(listing, runs=ordered)


def listing_columns(listing: Listing) -> list[ListingColumn]:
    """Return the columns from left to right; in a narrow terminal, the table omits those that do not fit."""
    first = [
        ListingColumn("run", "run", listing.name, listing.name),
        ListingColumn("status", "status", lambda run: run.status, lambda run: run.status),
    ]
    others = [
        ListingColumn("variant", "variant", lambda run: run.variant or MISSING, lambda run: run.variant),
        ListingColumn("step", "step", _progress, lambda run: _negated(run.step)),
        ListingColumn("age", "age", lambda run: _age(listing.now - run.changed), lambda run: -run.changed),
        *(column for column in metric_columns(listing) if _is_shown(column, listing)),
        ListingColumn("samples/s", "samples/s", _speed, lambda run: _negated(run.samples_per_second)),
        ListingColumn("best", "best", lambda run: _count(run.best_step), lambda run: _negated(run.best_step)),
    ]
    # The table begins with the column that the runs are sorted by, after name and status, and never omits it.
    if listing.sort != NEWEST:
        others.sort(key=lambda column: column.key != listing.sort)
    return [*first, *others]


def metric_columns(listing: Listing) -> list[ListingColumn]:
    """Return a column for each metric that `Listing.tasks` has for at least one run."""
    recorded: dict[str, set[str]] = {}
    for run in listing.runs:
        for task, values in listing.tasks(run).items():
            recorded.setdefault(task, set()).update(values)
    known = [(task, metric) for task, keys in recorded.items() for metric in METRICS if metric.key in keys]
    return [_metric_column(listing, task, metric) for task, metric in known]


def _is_shown(column: ListingColumn, listing: Listing) -> bool:
    return column.key == listing.sort or column.key.rpartition(".")[2] in _DEFAULT_METRICS


def _metric_column(listing: Listing, task: str, metric: Metric) -> ListingColumn:
    def value(run: RunRecord) -> float | None:
        return listing.tasks(run).get(task, {}).get(metric.key)

    def cell(run: RunRecord) -> str:
        number = value(run)
        if number is None:
            return MISSING
        return ("" if run.tasks(listing.split) else NOT_FINAL) + metric.format_value(number)

    def sort_value(run: RunRecord) -> tuple[bool, float] | None:
        number = value(run)
        if number is None:
            return None
        key = metric.rank_key(number)
        # Metrics that are not final are of the validation split, so these runs come after the others.
        return not run.tasks(listing.split), -number if key is None else key

    return ListingColumn(f"{task}.{metric.key}", metric.heading, cell, sort_value, task)


def runs_json(listing: Listing) -> str:
    """Return the runs as a JSON array; numbers that JSON cannot represent, such as NaN, are null.

    `[{"run", "path", "name", "variant", "seed", "status", "step", "total_steps", "best_step", "samples_per_second",
    "changed", "splits": {split: {task: {metric: value}}}, "last_validation": {task: {metric: value}}, "damaged"}, ..]`
    """
    return json_text([_run_content(listing, run) for run in listing.runs])


def _run_content(listing: Listing, run: RunRecord) -> dict[str, Any]:
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
        "last_validation": as_mapping(run.valid.get("tasks")),
        "damaged": list(run.damaged),
    }


def _find_folder(text: str) -> Location:
    for path in possible_places(text):
        if is_folder(path):
            return path
    raise UserError(
        printable(text),
        "is a file" if path_exists(Path(text)) else "no such directory",
        "it is searched for runs",
        f"name a folder with runs in it, or a run by its path or its name under {RUNS}/",
    )


def _unknown_key(sort: str, listing: Listing, keys: list[str]) -> UserError:
    # This import loads pydantic, which takes long.
    from ple_rec.config.words import spelling_hint

    known = f"known: {', '.join(column.key for column in listing_columns(listing))}"
    suggestion = spelling_hint(sort, keys)
    return UserError(
        "--sort",
        f'unknown key "{printable(sort)}"',
        printable(f"{suggestion} ({known})" if suggestion else known),
        "use one of these, or TASK.METRIC of any recorded metric",
    )


def _progress(run: RunRecord) -> str:
    if run.step is None or run.total_steps in (None, run.step):
        return _count(run.step)
    return f"{run.step:,}/{run.total_steps:,}"


def _speed(run: RunRecord) -> str:
    return MISSING if run.samples_per_second is None else short_count(round(run.samples_per_second))


def _count(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def _negated(value: float | None) -> float | None:
    return None if value is None else -value


def _age(seconds: float) -> str:
    """Return a time span in its largest unit: `5 min`, `3 h`, `2 d`."""
    size, unit = next(((size, unit) for size, unit in _TIME_UNITS if seconds >= size), _TIME_UNITS[-1])
    return f"{max(int(seconds // size), 0)} {unit}"


# Columns that are aligned to the left; others are aligned to the right.
_LEFT_ALIGNED = ("run", "status", "variant")
# Largest number of characters of a cell other than the name of the run.
_MAX_CELL_LENGTH = 24
# Number of characters between columns.
_GAP = 2


def format_runs(listing: Listing, width: int) -> str:
    """Return the table of the runs, with footnotes on metrics that are not final, omitted columns and unreadable files.

    Args:
        listing: Runs in the order of the table.
        width: Largest number of characters of a line. Long cells are cut, and columns that do not fit are omitted and
            named in a footnote; if that is not enough, the names of the runs are cut further.

    Returns:
        Text without a trailing newline; one sentence if there are no runs.
    """
    lines, notes = list[str](), list[str]()
    if listing.runs:
        lines, left_out = _table(listing, width)
        if any(f" {NOT_FINAL}" in line for line in lines):
            notes.append(f"{NOT_FINAL} last validation record of a run without final metrics on {listing.split}")
        if left_out:
            notes.append(f"left out, beyond {width} characters: {first_names_text(left_out, width)}; --json has all")
    else:
        place, text = printable(str(listing.directory)), printable(listing.text)
        notes.append(f'no run in {place} contains "{text}"' if text else f"no runs in {place}")
    if damaged := [f"{listing.name(run)}/{name}" for run in listing.runs for name in run.damaged]:
        notes.append(f"damaged, and left out: {first_names_text(damaged, width)}")
    if listing.unreadable:
        notes.append(f"not readable, and left out: {first_names_text(list(map(str, listing.unreadable)), width)}")
    return "\n".join([*lines, *(wrap_text(note, width) for note in notes)])


def _table(listing: Listing, width: int) -> tuple[list[str], list[str]]:
    """Return two lines of headings and a line for each run, and the keys of the omitted columns."""
    always = {"run", "status", listing.sort} - {NEWEST}
    columns: list[ListingColumn] = []
    texts: list[list[str]] = []
    left_out, used = [], -_GAP
    for column in listing_columns(listing):
        # The name of a task is written above the first of its columns.
        task = (
            "" if columns and columns[-1].task == column.task else cut_middle(printable(column.task), _MAX_CELL_LENGTH)
        )
        longest = width // 2 if column.key == "run" else _MAX_CELL_LENGTH
        cells = [task, column.heading, *(cut_middle(printable(column.cell(run)), longest) for run in listing.runs)]
        needed = _GAP + max(map(len, cells))
        if column.key in always or used + needed <= width:
            columns.append(column)
            texts.append(cells)
            used += needed
        else:
            left_out.append(column.key)
    # The heading line with the names of the tasks begins with the split of their metrics.
    texts[0][0] = listing.split
    left = [i for i, column in enumerate(columns) if column.key in _LEFT_ALIGNED]
    return fit_table(list(zip(*texts, strict=True)), width, left).split("\n"), left_out
