"""`ple-rec runs`: finds the runs below a folder, and puts them in order. Needs no torch."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ple_rec.analysis.find_runs import RUNS, find_runs, is_folder, is_there
from ple_rec.analysis.listing import NEWEST, Listing, columns_of
from ple_rec.analysis.plain import json_text
from ple_rec.analysis.run_record import RunRecord, read_record
from ple_rec.errors import UserError
from ple_rec.text import printable
from ple_rec.train.results import mapping, split_tasks


def list_runs(directory: str, *, text: str = "", sort: str = NEWEST, split: str = "test", now: float) -> Listing:
    """Find and read the runs below a directory.

    Args:
        directory: A path, or a name under `runs/`; it is searched, or is a run itself.
        text: Runs whose name, variant or status does not contain it are left out.
        sort: Key of a column, or `TASK.METRIC` of any metric recorded below the directory; the best, or newest, run
            comes first. By a metric, runs without final metrics on the split follow those that have them.
        split: Whose metrics.
        now: Seconds since the epoch.

    Raises:
        UserError: there is no such directory, or no such key.
    """
    folder, unreadable = _folder(directory), list[Path]()
    records = sorted(map(read_record, find_runs(folder, unreadable)), key=lambda run: -run.changed)
    listing = Listing(folder, tuple(records), split, sort, now, text, tuple(unreadable))
    if not records:
        return listing
    columns = {column.key: column for column in columns_of(listing, every=True)}
    if sort not in columns:
        raise _unknown_key(sort, list(columns), [column.key for column in columns_of(listing)])
    wanted = text.lower()
    kept = [run for run in records if wanted in f"{listing.name(run)} {run.variant} {run.status}".lower()]
    places = [(columns[sort].order(run), run) for run in kept]
    known = sorted((pair for pair in places if pair[0] is not None), key=lambda pair: pair[0])  # stable: newest first
    ordered = (*(run for _, run in known), *(run for place, run in places if place is None))
    return replace(listing, runs=ordered)


def runs_json(listing: Listing) -> str:
    """All that is known of each run, as a JSON array; what is no JSON number, such as NaN, is null.

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
        "changed": _date(run.changed),
        "splits": {split: tasks for split in ("valid", "test") if (tasks := split_tasks(run.metrics, split))},
        "last_validation": mapping(run.valid.get("tasks")),
        "damaged": list(run.damaged),
    }


def _date(seconds: float) -> str | None:
    try:
        return datetime.fromtimestamp(int(seconds), tz=UTC).isoformat()
    except (ValueError, OverflowError, OSError):  # beyond the year 9999
        return None


def _folder(text: str) -> Path:
    for path in (Path(text), RUNS / text):
        if is_folder(path):
            return path
    raise UserError(
        printable(text),
        "is a file" if is_there(Path(text)) else "no such directory",
        "it is searched for runs",
        f"name a folder with runs in it, or a run by its path or its name under {RUNS}/",
    )


def _unknown_key(sort: str, every: Sequence[str], shown: Sequence[str]) -> UserError:
    from ple_rec.config.words import suggestion  # imports pydantic

    near = [key for key in difflib.get_close_matches(sort, every, n=1) if key not in shown]
    fix = "use one of these, or TASK.METRIC of any recorded metric"
    known = printable(suggestion(sort, [*near, *shown]))
    return UserError("--sort", f'unknown key "{printable(sort)}"', known, fix)
