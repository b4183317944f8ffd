"""`ple-rec report`: the verb that writes report.html of a run; `ple_rec.reports.run` makes the page."""

from __future__ import annotations

from ple_rec.cli.console import show
from ple_rec.cli.options import RunName, verb_app

app = verb_app("report")


@app.default
def report(run: RunName, /) -> int:
    """Write RUN/report.html from the files of the run.

    Training does so at its end. For a run that was stopped or is still training, the page shows the results so far and
    names the missing ones.
    """
    from ple_rec.reports.run.page import write_report
    from ple_rec.runs.directory import hold_to_add
    from ple_rec.runs.find import find_run

    run_dir = find_run(run)
    with hold_to_add(run_dir):  # In an object store, no other process changes the run meanwhile.
        page = write_report(run_dir)
    show(f"report: {page}")
    return 0
