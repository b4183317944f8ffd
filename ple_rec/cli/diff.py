"""`ple-rec diff`: flags and output of a comparison of two runs, which `ple_rec.runs.diff` makes."""

from __future__ import annotations

from typing import Annotated

from ple_rec.cli.console import line_width, show
from ple_rec.cli.options import FinalSplit, flag, verb_app

app = verb_app("diff")


@app.default
def diff(
    a: Annotated[str, flag("run directory, or its name under runs/", name="RUN_A")],
    b: Annotated[str, flag("the other run", name="RUN_B")],
    /,
    *,
    split: FinalSplit = "test",
    json: Annotated[bool, flag("print JSON instead of tables")] = False,
) -> int:
    """Compare two runs.

    Prints differences of their configurations, datasets and versions, then their metrics side by side. For a run that
    has not finished, the last validation record counts.
    """
    from ple_rec.runs.diff import compare_runs, diff_json, format_diff
    from ple_rec.runs.find import find_run
    from ple_rec.runs.record import read_record

    differences = compare_runs(read_record(find_run(a)), read_record(find_run(b)), split)
    show(diff_json(differences) if json else format_diff(differences, line_width()))
    return 0
