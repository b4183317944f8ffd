"""`ple-rec runs`: flags and output of the list of runs, which `ple_rec.runs.listing` makes."""

from __future__ import annotations

import time
from typing import Annotated

from ple_rec.cli.console import line_width, show
from ple_rec.cli.options import FinalSplit, flag, verb_app

app = verb_app("runs")


@app.default
def runs(
    directory: Annotated[str, flag("path, or name under runs/; default: runs", name="DIR")] = "runs",
    /,
    *,
    sort: Annotated[str, flag("column to sort by, best first, e.g. income.auc; default: age", "KEY")] = "age",
    split: FinalSplit = "test",
    filter: Annotated[str, flag("list only runs whose name, variant or status contains TEXT", "TEXT")] = "",
    json: Annotated[bool, flag("print JSON, with all metrics, instead of a table")] = False,
) -> int:
    """List the runs below DIR, newest first.

    Prints status, step, and for each task its AUC (RMSE for a regression) and both GAUCs. A run that has not finished
    shows its last validation record, marked *.
    """
    from ple_rec.runs.listing import format_runs, list_runs, runs_json

    listing = list_runs(directory, text=filter, sort=sort, split=split, now=time.time())
    show(runs_json(listing) if json else format_runs(listing, line_width()))
    return 0
