"""`ple-rec runs`: the runs below a folder in order, and their table. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ple_rec.config.metrics import METRICS, Metric
from ple_rec.errors import UserError
from ple_rec.runs.find import RUNS, find_runs, is_folder, is_there, places_of
from ple_rec.runs.record import RunRecord, TaskMetrics, read_record
from ple_rec.runs.results import MISSING, mapping, split_tasks
from ple_rec.storage import Location, at_once, is_remote
from ple_rec.text import cut, printable
from ple_rec.text.plain import fitted, json_text, some_of, wrapped
from ple_rec.text.units import short_count

NEWEST = "age"
NOT_FINAL = "*"  # marks the metrics of a run that has not finished
_SHOWN = ("auc", "gauc", "rmse")  # other metrics are keys to sort by
_SPANS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True)
class Listing:
    """Runs in the order in which they are shown.

    Args:
        directory: Folder below which they lie.
        runs: Record of each run.
        split: Split whose final metrics are shown.
        sort: Key by which they are in order.
        now: Seconds since the epoch.
        text: Text that each of them contains in its name, variant or status.
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
        """Return the path of a run below the directory; the directory's own name where it is the run itself."""
        if run.path == self.directory:
            return run.path.name or "."
        return str(run.path).removeprefix(f"{self.directory}/")

    def tasks(self, run: RunRecord) -> TaskMetrics:
        """Return the final metrics of a run, or those of its last validation record where it has none."""
        return run.tasks(self.split) or run.last_validation


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Args:
        key: Name by which `--sort` takes it.
        heading: Heading of the column.
        cell: Text of a run.
        order: Place of a run, the lower the earlier it stands; None stands last.
        task: Task of a metric, which stands above the headings of its columns.
    """

    key: str
    heading: str
    cell: Callable[[RunRecord], str]
    order: Callable[[RunRecord], Any]
    task: str = ""


def list_runs(directory: str, *, text: str = "", sort: str = NEWEST, split: str = "test", now: float) -> Listing:
    """Find and read the runs below a directory.

    Args:
        directory: Path, or name under `runs/`; it is searched, or is a run itself.
        text: Text that the name, variant or status of a run contains, or it is left out.
        sort: Key of a column, or `TASK.METRIC` of any metric recorded below the directory; the best, or newest, run
            comes first. By a metric, runs without final metrics on the split follow those that have them.
        split: Split whose metrics are shown.
        now: Seconds since the epoch.

    Raises:
        UserError: There is no such directory, or no such key.
    """
    folder, unreadable = _folder(directory), list[Path]()
    found = find_runs(folder, unreadable)
    records = at_once(read_record, found) if is_remote(folder) else list(map(read_record, found))
    records.sort(key=lambda run: -run.changed)
    listing = Listing(folder, tuple(records), split, sort, now, text, tuple(unreadable))
    if not records:
        return listing
    columns = {column.key: column for column in [*columns_of(listing), *metric_columns(listing)]}
    if sort not in columns:
        raise _unknown_key(sort, listing, list(columns))
    kept = [run for run in records if text.lower() in f"{listing.name(run)} {run.variant} {run.status}".lower()]
    places = [(columns[sort].order(run), run) for run in kept]
    known = sorted((pair for pair in places if pair[0] is not None), key=lambda pair: pair[0])  # stable: newest first
    ordered = (*(run for _, run in known), *(run for place, run in places if place is None))
    return replace(listing, runs=ordered)


def columns_of(listing: Listing) -> list[Column]:
    """Return the columns from left to right; the last are the first that a narrow terminal leaves out."""
    first = [
        Column("run", "run", listing.name, listing.name),
        Column("status", "status", lambda run: run.status, lambda run: run.status),
    ]
    others = [
        Column("variant", "variant", lambda run: run.variant or MISSING, lambda run: run.variant),
        Column("step", "step", _progress, lambda run: _falling(run.step)),
        Column("age", "age", lambda run: _age(listing.now - run.changed), lambda run: -run.changed),
        *(column for column in metric_columns(listing) if _is_shown(column, listing)),
        Column("samples/s", "samples/s", _speed, lambda run: _falling(run.samples_per_second)),
        Column("best", "best", lambda run: _count(run.best_step), lambda run: _falling(run.best_step)),
    ]
    if listing.sort != NEWEST:  # what the runs are sorted by is never left out
        others.sort(key=lambda column: column.key != listing.sort)
    return [*first, *others]


def metric_columns(listing: Listing) -> list[Column]:
    """Return a column for each metric that one of the runs has recorded."""
    recorded: dict[str, set[str]] = {}
    for run in listing.runs:
        for task, values in listing.tasks(run).items():
            recorded.setdefault(task, set()).update(values)
    known = [(task, metric) for task, keys in recorded.items() for metric in METRICS if metric.key in keys]
    return [_metric_column(listing, task, metric) for task, metric in known]


def _is_shown(column: Column, listing: Listing) -> bool:
    return column.key == listing.sort or column.key.rpartition(".")[2] in _SHOWN


def _metric_column(listing: Listing, task: str, metric: Metric) -> Column:
    def value(run: RunRecord) -> float | None:
        return listing.tasks(run).get(task, {}).get(metric.key)

    def cell(run: RunRecord) -> str:
        found = value(run)
        if found is None:
            return MISSING
        return ("" if run.tasks(listing.split) else NOT_FINAL) + metric.text(found)

    def order(run: RunRecord) -> tuple[bool, float] | None:
        found = value(run)
        if found is None:
            return None
        bad = metric.rank_key(found)
        # Figures of another split, of a run that still changes, are no rivals of final ones.
        return not run.tasks(listing.split), -found if bad is None else bad

    return Column(f"{task}.{metric.key}", metric.heading, cell, order, task)


def runs_json(listing: Listing) -> str:
    """Return all that is known of each run, as a JSON array; what is no JSON number, such as NaN, is null.

    `[{"run", "path", "name", "variant", "seed", "status", "step", "total_steps", "best_step", "samples_per_second",
    "changed", "splits": {split: {task: {metric: value}}}, "last_validation": {task: {metric: value}}, "damaged"}, ..]`
    """
    return json_text([_content(listing, run) for run in listing.runs])


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


def _folder(text: str) -> Location:
    for path in places_of(text):
        if is_folder(path):
            return path
    raise UserError(
        printable(text),
        "is a file" if is_there(Path(text)) else "no such directory",
        "it is searched for runs",
        f"name a folder with runs in it, or a run by its path or its name under {RUNS}/",
    )


def _unknown_key(sort: str, listing: Listing, every: list[str]) -> UserError:
    from ple_rec.config.words import meant  # imports pydantic

    known = f"known: {', '.join(column.key for column in columns_of(listing))}"
    near = meant(sort, every)
    return UserError(
        "--sort",
        f'unknown key "{printable(sort)}"',
        printable(f"{near} ({known})" if near else known),
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


def _falling(value: float | None) -> float | None:
    return None if value is None else -value


def _age(seconds: float) -> str:
    """Return a time span in its largest unit: `5 min`, `3 h`, `2 d`."""
    size, unit = next(((size, unit) for size, unit in _SPANS if seconds >= size), _SPANS[-1])
    return f"{max(int(seconds // size), 0)} {unit}"


_WORDS = ("run", "status", "variant")  # columns that read from the left
_LONGEST = 24  # characters of a cell, but for the run's name
_GAP = 2  # characters between columns


def format_runs(listing: Listing, width: int) -> str:
    """Return a line for each run, aligned, and footnotes on what the table does not show.

    Args:
        listing: Runs in their order.
        width: Characters that a line may have; columns that do not fit are left out, and named; then names are cut.

    Returns:
        Text without a trailing newline; one sentence where there are no runs.
    """
    lines, notes = list[str](), list[str]()
    if listing.runs:
        lines, left_out = _table(listing, width)
        if any(f" {NOT_FINAL}" in line for line in lines):
            notes.append(f"{NOT_FINAL} last validation record of a run without final metrics on {listing.split}")
        if left_out:
            notes.append(f"left out, beyond {width} characters: {some_of(left_out, width)}; --json has all")
    else:
        place, text = printable(str(listing.directory)), printable(listing.text)
        notes.append(f'no run in {place} contains "{text}"' if text else f"no runs in {place}")
    if damaged := [f"{listing.name(run)}/{name}" for run in listing.runs for name in run.damaged]:
        notes.append(f"damaged, and left out: {some_of(damaged, width)}")
    if listing.unreadable:
        notes.append(f"not readable, and left out: {some_of(list(map(str, listing.unreadable)), width)}")
    return "\n".join([*lines, *(wrapped(note, width) for note in notes)])


def _table(listing: Listing, width: int) -> tuple[list[str], list[str]]:
    """Return two lines of heading and one for each run, and the keys of the columns for which there is no room."""
    always = {"run", "status", listing.sort} - {NEWEST}
    shown: list[Column] = []
    texts: list[list[str]] = []
    left_out, used = [], -_GAP
    for column in columns_of(listing):
        # A task's name stands above the first of its columns alone.
        task = "" if shown and shown[-1].task == column.task else cut(printable(column.task), _LONGEST)
        most = width // 2 if column.key == "run" else _LONGEST
        cells = [task, column.heading, *(cut(printable(column.cell(run)), most) for run in listing.runs)]
        needed = _GAP + max(map(len, cells))
        if column.key in always or used + needed <= width:
            shown.append(column)
            texts.append(cells)
            used += needed
        else:
            left_out.append(column.key)
    texts[0][0] = listing.split
    left = [i for i, column in enumerate(shown) if column.key in _WORDS]
    return fitted(list(zip(*texts, strict=True)), width, left).split("\n"), left_out
